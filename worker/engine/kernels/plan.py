"""Which keys each program of a decode kernel reads.

An item is a run of tokens of one arena that adjacent seats share. It is a row of `COLUMNS` int32:

    start, tokens, first seat, seats, part (which of each seat's), tail seat, skip, 0

Where a tail seat is named, the item holds tokens from `skip` on of that seat's tail, of which only those
exist that its length covers; else the tail seat is -1. Packed items begin and end with a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from worker.engine.page import PAGE

COLUMNS = 8

_SMALLEST = 2 * PAGE  # a shorter item costs more to merge than it saves
_TAIL_ITEM, _LONG_TAIL_ITEM = 512, 2_048  # the second in tails above `_LONG_TAIL`
_LONG_TAIL = 4_096


@dataclass(frozen=True, slots=True)
class Span:
    """Adjacent tokens of one arena."""

    arena: str
    start: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Tail:
    """A seat's own suffix and answer, in the exact arena."""

    start: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Group:
    """Adjacent seats that ask about the same document."""

    spans: Sequence[Span]
    tails: Sequence[Tail]  #: one a seat


@dataclass(frozen=True, slots=True)
class Plan:
    items: dict[str, NDArray[np.int32]]  #: (n, `COLUMNS`) of each arena
    part_counts: NDArray[np.int32]  #: of each seat


def plan(groups: Sequence[Group], programs: dict[str, int]) -> Plan:
    """Cut all that the seats must see into items.

    Seats are numbered through the groups in their order. `programs` names the arenas, "exact" among them, and
    how many programs of each run at a time for one KV head: an arena gets no more items than that while its
    spans and tails allow, so that no program takes a second one. A tail costs what it holds at present, which
    is little beside a document: spans get three quarters of the programs however many items the tails have.
    """
    tails = sum(len(_skips(tail)) for group in groups for tail in group.tails)
    longest = {
        arena: _longest(
            [span.tokens for group in groups for span in group.spans if span.arena == arena],
            max(count - tails, count * 3 // 4) if arena == "exact" else count,
        )
        for arena, count in programs.items()
    }
    items: dict[str, list[list[int]]] = {arena: [] for arena in programs}
    part_counts: list[int] = []
    for group in groups:
        first, seats, part = len(part_counts), len(group.tails), 0
        for span in group.spans:
            for start, tokens in _cut(span, longest[span.arena]):
                items[span.arena].append([start, tokens, first, seats, part, -1, 0, 0])
                part += 1
        for seat, tail in enumerate(group.tails, first):
            skips = _skips(tail)
            for number, skip in enumerate(skips, part):
                tokens = min(skips.step, tail.capacity - skip)
                items["exact"].append([tail.start + skip, tokens, seat, 1, number, seat, skip, 0])
            part_counts.append(part + len(skips))
    return Plan(
        {arena: np.array(rows, np.int32).reshape(-1, COLUMNS) for arena, rows in items.items()},
        np.array(part_counts, np.int32),
    )


def _skips(tail: Tail) -> range:
    """Where a tail's items begin."""
    return range(0, tail.capacity, _LONG_TAIL_ITEM if tail.capacity > _LONG_TAIL else _TAIL_ITEM)


def _longest(sizes: Sequence[int], items: int) -> int:
    """The fewest tokens an item must hold so that spans of `sizes` are cut into no more than `items`."""
    low, high = _SMALLEST // PAGE, max([_SMALLEST, *sizes]) // PAGE + 1
    while low < high:
        middle = (low + high) // 2
        if sum(-(-size // (middle * PAGE)) for size in sizes) <= items:
            high = middle
        else:
            low = middle + 1
    return low * PAGE


def _cut(span: Span, longest: int) -> list[tuple[int, int]]:
    """(start, tokens) of pieces of whole pages, as equal as they can be; the last may end within a page."""
    pieces = -(-span.tokens // longest)
    pages = -(-span.tokens // PAGE)
    edges = [min(number * pages // pieces * PAGE, span.tokens) for number in range(pieces + 1)]
    return [(span.start + begin, end - begin) for begin, end in pairwise(edges)]
