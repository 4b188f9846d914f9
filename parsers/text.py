"""Plain text and Markdown: pages where form feeds separate them, else sections."""

from __future__ import annotations

from pathlib import Path

from parsers.encoding import decode
from parsers.limits import Limits
from parsers.reading import RawPage, Reading
from parsers.sections import cut

PARSER = "text/1"


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read a text file whole; its size is bounded by the memory of the process."""
    text, warning = decode(path.read_bytes())
    sheets = text.rstrip("\f\r\n ").split("\f")
    paged = len(sheets) > 1
    pages = sheets if paged else cut(text.replace("\r\n", "\n"))
    return Reading(
        parser=PARSER,
        raw_pages=map(RawPage, pages),
        total=len(pages),
        paged=paged,
        warnings=[warning] if warning else [],
    )
