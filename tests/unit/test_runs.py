"""Free pages as runs."""

from __future__ import annotations

import random

import pytest

from worker.engine.runs import Run, Runs, joined


def test_pages_come_from_the_smallest_run_that_holds_them_all() -> None:
    runs = Runs(20)
    runs.take(20)
    runs.give([Run(0, 8), Run(10, 3), Run(15, 5)])
    assert runs.take(3) == [Run(10, 3)]
    assert runs.take(4) == [Run(15, 4)]
    assert runs.take(6) == [Run(0, 6)]
    assert runs.free() == [Run(6, 2), Run(19, 1)]


def test_more_than_any_run_holds_comes_in_as_few_runs_as_can_be() -> None:
    runs = Runs(20)
    runs.take(20)
    runs.give([Run(0, 2), Run(5, 6), Run(12, 4), Run(18, 1)])
    assert runs.take(9) == [Run(5, 6), Run(12, 3)]


def test_pages_given_back_join_their_neighbours_on_both_sides() -> None:
    runs = Runs(9)
    runs.take(9)
    runs.give([Run(0, 3), Run(6, 3)])
    assert runs.free() == [Run(0, 3), Run(6, 3)]
    runs.give([Run(3, 3)])
    assert runs.free() == [Run(0, 9)]


@pytest.mark.parametrize("again", [Run(2, 1), Run(0, 3), Run(1, 4), Run(4, 2)])
def test_a_page_given_back_twice_is_an_error_and_changes_nothing(again: Run) -> None:
    runs = Runs(8)
    runs.take(8)
    runs.give([Run(2, 3)])
    with pytest.raises(ValueError, match="given back twice"):
        runs.give([again])
    assert runs.free() == [Run(2, 3)]


def test_more_pages_than_are_free_are_refused_and_nothing_is_taken() -> None:
    runs = Runs(4)
    with pytest.raises(ValueError, match="5 pages were asked for and 4 are free"):
        runs.take(5)
    assert runs.free() == [Run(0, 4)]


def test_nothing_is_taken_from_nothing() -> None:
    runs = Runs(0)
    assert runs.take(0) == []
    assert runs.free() == []


def test_pages_in_their_order_are_joined_into_runs() -> None:
    assert joined([3, 4, 5, 9, 8, 7, 8]) == [Run(3, 3), Run(9, 1), Run(8, 1), Run(7, 2)]
    assert joined([]) == []


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_taken_and_given_every_page_is_free_or_held_once(seed: int) -> None:
    chance = random.Random(seed)
    runs, held, free = Runs(40), list[Run](), set(range(40))
    for _ in range(200):
        if held and chance.random() < 0.5:
            back = [held.pop(chance.randrange(len(held))) for _ in range(min(len(held), 2))]
            runs.give(back)
            free.update(page for run in back for page in range(run.start, run.end))
        else:
            before = runs.free()
            pages = chance.randint(0, len(free))
            taken = runs.take(pages)
            largest_first = sorted((run.pages for run in before), reverse=True)
            fewest = next(n for n in range(len(before) + 1) if sum(largest_first[:n]) >= pages)
            assert len(taken) == fewest
            new = [page for run in taken for page in range(run.start, run.end)]
            assert len(new) == len(set(new)) == pages
            assert free.issuperset(new)
            free.difference_update(new)
            held += taken
        assert runs.pages_free == len(free)
        assert runs.free() == joined(sorted(free))
