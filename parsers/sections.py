"""Sections: the places that a text without pages is cited by."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from parsers.clean import clean
from parsers.document import Change
from parsers.reading import Mark, RawPage

#: Characters of a section: about one printed page.
SIZE = 3000
_NUMBERS = re.compile(r"[\W\d_]|\b(?:page|seite|of|von|de|sur)\b", re.I)


class Block(NamedTuple):
    """A paragraph, list item, table or heading of a document."""

    text: str
    #: Level of a heading, 0 for anything else; one of the first two levels begins a section.
    level: int = 0
    anchor: str | None = None
    changes: Sequence[Change] = ()

    @property
    def begins(self) -> bool:
        return 0 < self.level <= 2


def running(texts: Iterable[str]) -> Iterator[str]:
    """Of headers or footers, each once, without those that only number the pages."""
    seen = set()
    for text in texts:
        key = _NUMBERS.sub("", text).strip()
        if key and key not in seen:
            seen.add(key)
            yield text


def sections(blocks: Iterable[Block]) -> list[RawPage]:
    """The blocks as sections: one begins at every heading, and none is much longer than a page."""
    return [page for chapter in _chapters(blocks) for page in _pages(chapter)]


def _chapters(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    chapter: list[Block] = []
    for block in blocks:
        if block.begins and any(not other.begins for other in chapter):
            yield chapter
            chapter = []
        text = clean(block.text)
        if text.strip():
            chapter.append(block._replace(text=text))
        elif chapter and (block.anchor or block.changes):  # they belong to what stands before them
            chapter.append(block._replace(text=""))
    yield chapter


def _pages(chapter: list[Block]) -> Iterator[RawPage]:
    text, starts = "", []
    for block in chapter:
        text += "\n\n" if text and block.text else ""
        starts.append(len(text))
        text += block.text
    start = first = 0
    for piece in cut(text):
        end = start + len(piece)
        last = bisect_left(starts, end, first) if end < len(text) else len(starts)
        yield RawPage(
            piece,
            marks=[
                Mark(block.text if block.level else "", block.level, block.anchor, at - start, block.changes)
                for at, block in zip(starts[first:last], chapter[first:last], strict=True)
                if block.level or block.anchor or block.changes
            ],
        )
        start, first = end, last


def cut(text: str, size: int = SIZE) -> list[str]:
    """`text` in pieces of at most `size` characters whose concatenation is `text` again.

    A piece ends at the last end of a paragraph in its second half, else of a line, else of a word.
    """
    pieces, start = [], 0
    while len(text) - start > size:
        end = _place_to_cut(text, start + size // 2, start + size)
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _place_to_cut(text: str, low: int, high: int) -> int:
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, low, high)
        if found >= 0:
            return found + len(mark)
    return high
