"""Running headers and footers: lines that come again at the same place of neighbouring pages.

The first of each stays in the text, the others are left out. The rows of a table run only if all of it does,
a line with a number that grows from page to page ("Invoice 1002") only if that is plainly the page's.
Only four pages back and ahead are looked at, so a document of any length passes through in constant memory.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from parsers.layout import Line

#: Pages looked at on either side.
_REACH = 4
#: A line runs if so many of the pages in reach have it.
_PAGES = 3
#: Lines at the top, and at the bottom, of which some may run.
_EDGE = 4
#: A number in Arabic or Roman figures. It begins with a set of letters, for which `re` searches fastest.
_NUMBER = re.compile(r"[\divxlc](?:(?<=\d)\d{0,4}|(?<=\b\w)[ivxlc]{0,8}\b)")
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}
#: Words that say so, and anything else that is no letter.
_PAGE = re.compile(
    r"\b(?:pages?|p|pg|seite|blatt|página|pagina|pág|pag|sida|side|strona|sayfa|стр\w*)\b|[页頁]"
)
_OTHER = re.compile(r"[^\W\d_]")
#: Width of a letter, in heights of its line, beyond which something in the line stands apart.
_WIDEST = 0.9
#: Heights on two pages that count as the same, in points.
_SAME = 4.0


class _Edge(NamedTuple):
    """A line at the top or the bottom of a page."""

    text: str
    #: With "#" for every number.
    pattern: str
    height: int
    numbers: list[str]
    #: By what each number is greater than the index of the page.
    offsets: list[int]


@dataclass(slots=True)
class Leaf:
    """A page on its way, and what was found on it."""

    index: int
    lines: list[Line]
    #: Titles that begin on this page are never taken for headers.
    titles: frozenset[str] = frozenset()
    #: Indices of the lines of each table.
    tables: Sequence[frozenset[int]] = ()
    #: Indices of lines that run and were seen before.
    dropped: frozenset[int] = frozenset()
    #: The page number printed in a running line.
    printed: str | None = None
    #: Lines that may run, by index, and by text and pattern.
    edges: dict[int, _Edge] = field(default_factory=dict)
    by_text: dict[str, list[_Edge]] = field(default_factory=dict)

    def at(self, text: str, height: int) -> _Edge | None:
        """The line with this text or pattern at about this height."""
        for edge in self.by_text.get(text, ()):
            if -1 <= edge.height - height <= 1:
                return edge
        return None


def mark_running(leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    """The same pages, with `dropped` and `printed` found out."""
    window = _Window()
    for leaf in leaves:
        _look(leaf)
        window.ahead.append(leaf)
        if len(window.ahead) > _REACH:
            yield window.judge()
    while window.ahead:
        yield window.judge()


def _look(leaf: Leaf) -> None:
    """Note the lines at the edges of a page."""
    lines = leaf.lines
    placed = sorted((-line.box.top, i, line.box) for i, line in enumerate(lines) if line.box)
    if len(placed) > 2 * _EDGE:
        placed = placed[:_EDGE] + placed[-_EDGE:]
    for _, i, box in placed:
        text = " ".join(lines[i].text.split()).lower()
        if text and text not in leaf.titles:
            height = round(box.bottom / _SAME)
            numbers = _NUMBER.findall(text)
            pattern = _NUMBER.sub("#", text) if numbers else text
            edge = _Edge(text, pattern, height, numbers, [_value(number) - leaf.index for number in numbers])
            leaf.edges[i] = edge
            for key in {text, pattern}:
                leaf.by_text.setdefault(key, []).append(edge)


def _value(number: str) -> int:
    """What a number in Arabic or Roman figures stands for."""
    if number.isdecimal():
        return int(number)
    values = [_ROMAN[letter] for letter in number]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def _numbers_pages(line: Line, edge: _Edge) -> bool:
    """Whether the growing number in a line is alone, apart from the rest, or said to be that of the page."""
    if not _OTHER.search(edge.pattern) or _PAGE.search(edge.text):
        return True
    box = line.box
    return box is not None and (
        line.gap > box.height or box.right - box.left > _WIDEST * box.height * len(edge.text)
    )


class _Window:
    """The pages around the one that is judged."""

    def __init__(self) -> None:
        self.ahead: deque[Leaf] = deque()
        #: The nearest first.
        self._behind: deque[Leaf] = deque(maxlen=_REACH)
        self._seen: set[str] = set()
        #: By what the last printed page number was greater than the index of its page.
        self._offset: int | None = None

    def judge(self) -> Leaf:
        """Take the next page out, with its running lines found."""
        leaf = self.ahead.popleft()
        counting = self._counting(leaf)
        dropped = set()
        for line, edge in leaf.edges.items():
            if line in counting and _numbers_pages(leaf.lines[line], edge):
                text = edge.pattern
            elif self._comes_again(edge):
                text = edge.text
            else:
                continue
            if text in self._seen or text == "#":
                dropped.add(line)
            self._seen.add(text)
        for table in leaf.tables:
            if not table <= dropped:  # what counts the pages is no row, wherever it stands
                dropped -= table - counting
        leaf.dropped = frozenset(dropped)
        self._behind.appendleft(leaf)
        return leaf

    def _comes_again(self, edge: _Edge) -> bool:
        """Whether a line runs as it is."""
        text, height = edge.text, edge.height
        return (
            sum(leaf.at(text, height) is not None for leaf in chain(self._behind, self.ahead)) + 1 >= _PAGES
        )

    def _counting(self, leaf: Leaf) -> set[int]:
        """The lines with the number of the page, which is noted; a page has but one."""
        found = [
            (length, edge.offsets[place], line, place)
            for line, edge in leaf.edges.items()
            for place, length in enumerate(self._lengths(edge))
        ]
        found = [item for item in found if item[0] >= self._least(item[1], leaf.edges[item[2]])]
        if not found:
            return set()
        # The count that goes on from the last page, or else the one that goes on for longest.
        _, best, line, place = max(found, key=lambda item: (item[1] == self._offset, item[0]))
        self._offset = best
        leaf.printed = leaf.edges[line].numbers[place]
        return {line for _, offset, line, _ in found if offset == best}

    def _least(self, offset: int, edge: _Edge) -> int:
        """How many pages show that a number counts them: fewer where it goes on from the last page."""
        if offset != self._offset:
            return _PAGES
        return 1 if edge.pattern == "#" else 2

    def _lengths(self, edge: _Edge) -> list[int]:
        """For how many pages on end each number of a line grows with the pages that have this line."""
        if not edge.offsets:
            return []
        sides = [self._offsets(edge, side) for side in (self._behind, self.ahead)]
        lengths = []
        for place, offset in enumerate(edge.offsets):
            lengths.append(1)
            for pages in sides:
                for offsets in pages:
                    if offsets[place] != offset:
                        break
                    lengths[-1] += 1
        return lengths

    def _offsets(self, edge: _Edge, side: Iterable[Leaf]) -> list[list[int]]:
        """Those of the same line on other pages, the nearest first."""
        found = [leaf.at(edge.pattern, edge.height) for leaf in side]
        return [other.offsets for other in found if other and len(other.offsets) == len(edge.offsets)]
