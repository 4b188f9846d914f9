"""Plain text and Markdown: pages where form feeds separate them, else sections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from parsers.encoding import decode
from parsers.limits import Limits
from parsers.reading import Mark, RawPage, Reading
from parsers.sections import SIZE, Block, cut, sections

PARSER = "text/4"

#: Headings of Markdown, outside of fenced code.
_HEADING = re.compile(r"(#{1,6})[ \t]+(.+?)[ \t#]*")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
#: Mean characters of a sheet beyond which form feeds part chapters, not pages.
_LONGEST = 4 * SIZE


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a text file whole; its size is bounded by the memory of the process."""
    text, warning = decode(path.read_bytes())
    sheets = text.rstrip("\f\r\n ").split("\f")
    paged = len(sheets) > 1 and len(text) <= _LONGEST * len(sheets)
    pages = [RawPage(sheet) for sheet in (sheets if paged else cut(text.replace("\r\n", "\n")))]
    return Reading(
        parser=PARSER,
        raw_pages=pages,
        total=len(pages),
        paged=paged,
        warnings=[warning] if warning else [],
    )


def read_markdown(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read Markdown: sections begin at its headings of the first two levels."""
    text, warning = decode(path.read_bytes())
    pages = [
        page._replace(
            marks=[Mark(mark.title.strip("# \t"), mark.level, None, mark.start) for mark in page.marks]
        )
        for page in sections(_blocks(text))
    ]
    return Reading(PARSER, pages, len(pages), paged=False, warnings=[warning] if warning else [])


def _blocks(text: str) -> Iterator[Block]:
    """Headings, and what stands between them."""
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        opens = _FENCE.match(line)
        if opens and opens[1].startswith(fence):
            fence = "" if fence else opens[1]
        heading = None if fence else _HEADING.fullmatch(line)
        if heading:
            yield Block("\n".join(lines))
            yield Block(line, level=len(heading[1]))
            lines = []
        else:
            lines.append(line)
    yield Block("\n".join(lines))
