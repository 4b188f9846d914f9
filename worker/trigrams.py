"""Trigrams of a long text: where in it a near copy of a few words can stand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BUCKETS = 1 << 20
#: Places looked at more closely, those that share most trigrams first; a text may repeat itself without end.
_MOST_PLACES = 64


class Trigrams:
    """The three-character pieces of a text, hashed: 12 MB for three million characters."""

    def __init__(self, text: str) -> None:
        self._hashes = _hashes(text)

    def places(self, words: str, *, shared: float) -> list[int]:
        """Where windows as long as `words` begin that hold the given share of its trigrams, best first.

        A copy with few edits keeps most trigrams (Jokinen and Ukkonen 1991: an edit destroys at most three),
        so no window worth comparing is missed, and hardly any other is found.
        """
        wanted = _hashes(words)
        size = len(wanted)
        if not size or len(self._hashes) < size:
            return []
        known = np.zeros(_BUCKETS, np.bool_)
        known[wanted] = True
        sums = np.concatenate([[0], np.cumsum(known[self._hashes], dtype=np.int32)])
        counts = sums[size:] - sums[:-size]
        good = np.flatnonzero(counts >= max(1, int(shared * size)))
        places = []
        for run in np.split(good, np.flatnonzero(np.diff(good) > size) + 1):
            if len(run):
                places += [int(part[np.argmax(counts[part])]) for part in _cut(run, size)]
        places.sort(key=lambda place: -int(counts[place]))
        return places[:_MOST_PLACES]


def _cut(run: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """A run of neighbouring windows in parts that each lie within one window's length."""
    numbers = (run - run[0]) // size
    return np.split(run, np.flatnonzero(np.diff(numbers)) + 1)


def _hashes(text: str) -> NDArray[np.uint32]:
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    if len(codes) < 3:
        return np.empty(0, np.uint32)
    mixed = codes[:-2] * np.uint32(0x9E3779B1) ^ codes[1:-1] * np.uint32(0x85EBCA77) ^ codes[2:]
    return (mixed ^ mixed >> np.uint32(15)) % np.uint32(_BUCKETS)
