"""Tables as Markdown, the one form they have in a document's text.

GitHub Flavored Markdown 0.29, section 4.10.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: A table with a longer cell is a layout of text.
LONG_CELL = 1500
_TABLE = re.compile(r"^\|.*\|\n\|(?: ?:?-+:? ?\|)+(?:\n\|.*\|)*$", re.MULTILINE)
_CELL_END = re.compile(r"(?<!\\)\|")
_BLANKS = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Table:
    """A table within the text of a page."""

    page: int
    #: Offsets in the page's text.
    start: int
    end: int
    #: Cells by row, the heading row first.
    rows: tuple[tuple[str, ...], ...]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table; the first row is its heading, short rows are filled up."""
    width = max(map(len, rows), default=0)
    lines = [_line([*map(_cell, row), *[""] * (width - len(row))]) for row in rows]
    return "\n".join([lines[0], _line(["---"] * width), *lines[1:]]) if lines else ""


def is_table(rows: Sequence[Sequence[str]]) -> bool:
    """Whether rows are worth a table: two rows or more, two columns or more that hold something."""
    filled = {index for row in rows for index, cell in enumerate(row) if cell.strip()}
    return len(rows) > 1 and len(filled) > 1


def holds_table(text: str) -> bool:
    """Whether a Markdown table stands in a text."""
    return _TABLE.search(text) is not None


def tables(text: str, page: int) -> Iterator[Table]:
    """The Markdown tables in a page's text."""
    for found in _TABLE.finditer(text):
        head, _, *body = found[0].split("\n")
        rows = tuple(tuple(_cells(line)) for line in (head, *body))
        yield Table(page, found.start(), found.end(), rows)


def _cell(text: str) -> str:
    return _BLANKS.sub(" ", text).strip().replace("|", r"\|")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in _CELL_END.split(line.strip())[1:-1]]
