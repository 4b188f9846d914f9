"""Sections: the places that a text without pages is cited by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

#: Characters of a section: about one printed page.
SIZE = 3000


class Block(NamedTuple):
    """A paragraph, list item, table or heading of a document."""

    text: str
    #: True for a heading of the first two levels, which begins a section.
    heading: bool = False


def sections(blocks: Iterable[Block]) -> list[str]:
    """The blocks as sections: one begins at every heading, and none is much longer than a page."""
    return [piece for chapter in _chapters(blocks) for piece in cut(chapter)]


def _chapters(blocks: Iterable[Block]) -> Iterator[str]:
    texts: list[str] = []
    only_headings = True
    for block in blocks:
        if block.heading and not only_headings:
            yield "\n\n".join(texts)
            texts, only_headings = [], True
        texts.append(block.text)
        only_headings = only_headings and block.heading
    yield "\n\n".join(texts)


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
