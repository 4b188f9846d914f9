"""Running headers and footers: lines that come again at the same place of neighbouring pages.

The first of each stays in the text, the others are left out. Only four pages back and ahead are looked at, so
a document of any length passes through in constant memory.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from parsers.layout import Line

#: Pages looked at on either side.
_REACH = 4
#: A line runs if so many of the pages in reach have it.
_PAGES = 3
#: Lines at the top, and at the bottom, of which some may run.
_EDGE = 4
_NUMBER = re.compile(r"\d{1,5}")
_DIGITS = re.compile(r"\d+|\b[ivxlc]+\b")
#: Heights on two pages that count as the same, in points.
_SAME = 4.0


class _Key(NamedTuple):
    text: str
    height: int


@dataclass(slots=True)
class Leaf:
    """A page on its way, and what was found on it."""

    index: int
    lines: list[Line]
    #: Titles that begin on this page are never taken for headers.
    titles: frozenset[str] = frozenset()
    #: Indices of lines that run and were seen before.
    dropped: frozenset[int] = frozenset()
    #: The page number printed in a running line.
    printed: str | None = None
    keys: dict[int, _Key] = field(default_factory=dict)
    numbers: dict[int, list[int]] = field(default_factory=dict)


def mark_running(leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    """The same pages, with `dropped` and `printed` found out."""
    window = _Window()
    for leaf in leaves:
        _look(leaf)
        window.add(leaf)
        if len(window.ahead) > _REACH:
            yield window.judge()
    while window.ahead:
        yield window.judge()


def _look(leaf: Leaf) -> None:
    """Note the lines at the edges of a page."""
    lines = leaf.lines
    placed = [(line.box, i) for i, line in enumerate(lines) if line.box]
    placed.sort(key=lambda item: -item[0].top)
    if len(placed) > 2 * _EDGE:
        placed = placed[:_EDGE] + placed[-_EDGE:]
    for box, i in placed:
        text = " ".join(lines[i].text.split()).lower()
        if text and text not in leaf.titles:
            leaf.keys[i] = _Key(_DIGITS.sub("#", text), round(box.bottom / _SAME))
            leaf.numbers[i] = [int(number) for number in _NUMBER.findall(text)]


class _Window:
    """The pages around the one that is judged, and how often each line occurs on them."""

    def __init__(self) -> None:
        self.ahead: deque[Leaf] = deque()
        self._behind: deque[Leaf] = deque()
        self._pages: Counter[_Key] = Counter()
        #: By what a printed number is greater than the index of its page.
        self._offsets: Counter[int] = Counter()
        self._seen: set[str] = set()

    def add(self, leaf: Leaf) -> None:
        self.ahead.append(leaf)
        self._pages.update(set(leaf.keys.values()))
        self._offsets.update(_offsets(leaf))

    def judge(self) -> Leaf:
        """Take the next page out, with its running lines found."""
        leaf = self.ahead.popleft()
        dropped = set()
        for line, key in leaf.keys.items():
            around = sum(self._pages[_Key(key.text, key.height + step)] for step in (-1, 0, 1))
            if around < _PAGES or (key.text == "#" and not self._counts(leaf, line)):
                continue
            for number in leaf.numbers[line]:
                if self._offsets[number - leaf.index] >= _PAGES:
                    leaf.printed = str(number)
            if key.text in self._seen or key.text == "#":
                dropped.add(line)
            self._seen.add(key.text)
        leaf.dropped = frozenset(dropped)
        self._behind.append(leaf)
        if len(self._behind) > _REACH:
            self._forget(self._behind.popleft())
        return leaf

    def _counts(self, leaf: Leaf, line: int) -> bool:
        """Whether a bare number grows with the pages; a Roman one is taken to."""
        numbers = leaf.numbers[line]
        return not numbers or any(self._offsets[number - leaf.index] >= _PAGES for number in numbers)

    def _forget(self, leaf: Leaf) -> None:
        self._pages.subtract(set(leaf.keys.values()))
        self._offsets.subtract(_offsets(leaf))


def _offsets(leaf: Leaf) -> set[int]:
    return {number - leaf.index for numbers in leaf.numbers.values() for number in numbers}
