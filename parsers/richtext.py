"""RTF, by striprtf: text and tables without formatting."""

from __future__ import annotations

from pathlib import Path

from parsers.errors import Damaged
from parsers.limits import Limits
from parsers.reading import Reading
from parsers.sections import Block, sections

PARSER = "richtext/1"


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read an .rtf file. It keeps no pages, so it has sections. Raises Damaged."""
    from striprtf.striprtf import rtf_to_text

    try:
        # Every byte above 127 is escaped in RTF, or is one of the code page that striprtf finds in the file.
        text = str(rtf_to_text(path.read_text("latin-1"), errors="replace"))  # type: ignore[no-untyped-call]
    except (ValueError, LookupError, IndexError, RecursionError) as exc:
        raise Damaged from exc
    pages = sections(Block(paragraph) for paragraph in text.split("\n"))
    return Reading(PARSER, pages, len(pages), paged=False)
