"""Which pages of an arena are free, as runs of adjacent ones."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import NamedTuple


class Run(NamedTuple):
    """Adjacent pages."""

    start: int
    pages: int

    @property
    def end(self) -> int:
        return self.start + self.pages


class Runs:
    """Hands out pages in as few runs as it can: a document in one run is read in large pieces."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._free = [Run(0, pages)] if pages else []  # sorted, never touching

    @property
    def pages_free(self) -> int:
        return sum(run.pages for run in self._free)

    def take(self, pages: int) -> list[Run]:
        """Pages from the smallest run that holds them all, else from the largest ones.

        Raises `ValueError` where fewer are free.
        """
        if pages > self.pages_free:
            raise ValueError(f"{pages} pages were asked for and {self.pages_free} are free.")
        taken: list[Run] = []
        while pages:
            fitting = [run for run in self._free if run.pages >= pages]
            source = min(fitting, key=_pages) if fitting else max(self._free, key=_pages)
            taken.append(self._cut(source, min(pages, source.pages)))
            pages -= taken[-1].pages
        return taken

    def give(self, runs: Iterable[Run]) -> None:
        """Take pages back, and join them with their free neighbours.

        Raises `ValueError`, and takes none, where one is free already.
        """
        joined: list[Run] = []
        for run in sorted([*self._free, *runs]):
            if joined and joined[-1].end > run.start:
                raise ValueError(f"page {run.start} was given back twice")
            if joined and joined[-1].end == run.start:
                joined[-1] = Run(joined[-1].start, joined[-1].pages + run.pages)
            else:
                joined.append(run)
        self._free = joined

    def free(self) -> list[Run]:
        return list(self._free)

    def _cut(self, source: Run, pages: int) -> Run:
        self._free.remove(source)
        if rest := source.pages - pages:
            insort(self._free, Run(source.start + pages, rest))
        return Run(source.start, pages)


def _pages(run: Run) -> int:
    return run.pages


def joined(indices: Iterable[int]) -> list[Run]:
    """Pages in their order, as runs."""
    runs: list[Run] = []
    start = end = 0
    for index in indices:
        if index != end:
            if end > start:
                runs.append(Run(start, end - start))
            start = index
        end = index + 1
    if end > start:
        runs.append(Run(start, end - start))
    return runs
