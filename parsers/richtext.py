"""RTF, by striprtf: text and tables without formatting."""

from __future__ import annotations

import re
from pathlib import Path

from parsers.errors import Damaged
from parsers.limits import Limits
from parsers.reading import Reading
from parsers.sections import Block, sections

PARSER = "richtext/2"

_NOTES = {"footnote": "Note", "annotation": "Comment"}
#: A control word, a control symbol, or the beginning or end of a group (RTF 1.9.1, "Basic Entities").
_TOKEN = re.compile(r"\\([a-z]+)(-?\d*) ?|\\.|([{}])", re.DOTALL)
#: What hides the text of list numbers and text boxes from striprtf.
_HIDING = re.compile(r"\\\*(?=\\annotation)|\\\*\\shpinst(?![a-z])|\\(?:shp|pntext)(?![a-z]) ?")


def read(path: Path, *, password: str | None, limits: Limits) -> Reading:
    """Read an .rtf file. It keeps no pages, so it has sections. Raises Damaged."""
    from striprtf.striprtf import rtf_to_text

    try:
        # Every byte above 127 is escaped in RTF, or is one of the code page that striprtf finds in the file.
        shown = _shown(path.read_text("latin-1"))
        text = str(rtf_to_text(shown, errors="replace"))  # type: ignore[no-untyped-call]
    except (ValueError, LookupError, IndexError, RecursionError) as exc:
        raise Damaged from exc
    pages = sections(Block(paragraph) for paragraph in text.split("\n"))
    return Reading(PARSER, pages, len(pages), paged=False)


def _shown(rtf: str) -> str:
    """A file in which striprtf finds what it leaves out (notes, text boxes, list numbers), and does not find
    what was deleted."""
    depth = 0
    notes: list[int] = []

    def written(token: re.Match[str]) -> str:
        nonlocal depth
        word, number, brace = token.groups()
        if brace == "{":
            depth += 1
        elif brace:
            depth -= 1
            if notes and notes[-1] > depth:
                notes.pop()
                return "]}"
        elif word in _NOTES:
            notes.append(depth)
            return f" [{_NOTES[word]}: "
        elif word == "shptxt":
            return r"\par "
        elif word == "deleted" and number != "0":
            return r"\*"  # the group is none that a reader knows
        return token[0]

    return _TOKEN.sub(written, _HIDING.sub("", rtf))
