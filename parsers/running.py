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
_NUMBER = re.compile(r"\d{1,5}|\b[ivxlc]{1,9}\b")
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}
#: Heights on two pages that count as the same, in points.
_SAME = 4.0


class _Key(NamedTuple):
    """What lines of several pages have in common."""

    #: All of it, or all but the numbers where one of them is the page's.
    text: str
    height: int


class _Number(NamedTuple):
    printed: str
    #: By what it is greater than the index of the page.
    offset: int


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
    #: By line: as it stands, and without its numbers.
    keys: dict[int, tuple[_Key, _Key]] = field(default_factory=dict)
    numbers: dict[int, list[_Number]] = field(default_factory=dict)


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
            height = round(box.bottom / _SAME)
            leaf.keys[i] = _Key(text, height), _Key(_NUMBER.sub("#", text), height)
            leaf.numbers[i] = [_Number(found, _value(found) - leaf.index) for found in _NUMBER.findall(text)]


def _value(number: str) -> int:
    """What a number in Arabic or Roman figures stands for."""
    if number.isdecimal():
        return int(number)
    values = [_ROMAN[letter] for letter in number]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


class _Window:
    """The pages around the one that is judged, and how often each line occurs on them."""

    def __init__(self) -> None:
        self.ahead: deque[Leaf] = deque()
        self._behind: deque[Leaf] = deque()
        self._keys: Counter[_Key] = Counter()
        self._offsets: Counter[int] = Counter()
        self._seen: set[str] = set()

    def add(self, leaf: Leaf) -> None:
        self.ahead.append(leaf)
        self._keys.update(_keys(leaf))
        self._offsets.update(_offsets(leaf))

    def judge(self) -> Leaf:
        """Take the next page out, with its running lines found."""
        leaf = self.ahead.popleft()
        dropped = set()
        for line, (same, numbered) in leaf.keys.items():
            # A line runs that comes again as it is, or with a number that grows with the pages.
            number = next((n for n in leaf.numbers[line] if self._offsets[n.offset] >= _PAGES), None)
            key = same if number is None else numbered
            if self._around(key) < _PAGES:
                continue
            leaf.printed = number.printed if number else leaf.printed
            if key.text in self._seen or key.text == "#":
                dropped.add(line)
            self._seen.add(key.text)
        leaf.dropped = frozenset(dropped)
        self._behind.append(leaf)
        if len(self._behind) > _REACH:
            self._forget(self._behind.popleft())
        return leaf

    def _around(self, key: _Key) -> int:
        """On how many pages a line stands at about its height."""
        return sum(self._keys[_Key(key.text, key.height + step)] for step in (-1, 0, 1))

    def _forget(self, leaf: Leaf) -> None:
        self._keys.subtract(_keys(leaf))
        self._offsets.subtract(_offsets(leaf))


def _keys(leaf: Leaf) -> set[_Key]:
    return {key for keys in leaf.keys.values() for key in keys}


def _offsets(leaf: Leaf) -> set[int]:
    return {number.offset for numbers in leaf.numbers.values() for number in numbers}
