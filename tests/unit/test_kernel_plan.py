"""How a step's keys are cut into items for the decode kernels."""

from __future__ import annotations

import pytest

from worker.engine.kernels.plan import Group, Plan, Span, Tail, plan

PAGE = 128


def covered(cut: Plan, arena: str, seat: int) -> list[tuple[int, int]]:
    """Where the spans begin and end that a seat is shown in an arena, tails left out; what meets is one."""
    spans: list[tuple[int, int]] = []
    for start, tokens, first, seats, _, tail, *_ in sorted(cut.items[arena].tolist()):
        if tail < 0 and first <= seat < first + seats:
            begin = spans.pop()[0] if spans and spans[-1][1] == start else start
            spans.append((begin, start + tokens))
    return spans


@pytest.mark.parametrize("pages", [1, 2, 7, 66, 67, 1_000])
def test_a_span_is_covered_once_by_whole_pages(pages: int) -> None:
    cut = plan([Group([Span("fp8", 3 * PAGE, pages * PAGE)], [Tail(0, 10)])], {"exact": 9, "fp8": 66})
    assert covered(cut, "fp8", 0) == [(3 * PAGE, (3 + pages) * PAGE)]
    assert all(start % PAGE == tokens % PAGE == 0 for start, tokens, *_ in cut.items["fp8"].tolist())


def test_work_is_balanced_and_no_program_gets_a_second_item() -> None:
    cut = plan([Group([Span("int4", 0, 8_192 * PAGE)], [Tail(0, 10)])], {"exact": 9, "int4": 66})
    sizes = cut.items["int4"][:, 1]
    assert len(sizes) <= 66
    assert sizes.max() - sizes.min() <= PAGE


def test_documents_of_different_lengths_share_the_programs_by_their_work() -> None:
    spans = [Span("int4", 0, 1_000 * PAGE), Span("int4", 1_000 * PAGE, 100 * PAGE)]
    cut = plan([Group([span], [Tail(0, 10)]) for span in spans], {"exact": 9, "int4": 66})
    first = int((cut.items["int4"][:, 2] == 0).sum())
    assert len(cut.items["int4"]) <= 66
    assert 8 <= first / (len(cut.items["int4"]) - first) <= 12


def test_a_short_span_is_not_cut_for_every_program() -> None:
    cut = plan([Group([Span("fp8", 0, 4 * PAGE)], [Tail(0, 10)])], {"exact": 66, "fp8": 66})
    assert len(cut.items["fp8"]) == 2


@pytest.mark.parametrize("capacity", [4_096, 65_536])
def test_long_tails_of_many_seats_leave_the_document_most_programs(capacity: int) -> None:
    tails = [Tail(1_048_576 + seat * capacity, capacity) for seat in range(8)]
    cut = plan([Group([Span("exact", 0, 8_192 * PAGE)], tails)], {"exact": 66})
    of_tails = cut.items["exact"][:, 5] >= 0
    assert 48 <= (~of_tails).sum() <= 66
    assert covered(cut, "exact", 7) == [(0, 8_192 * PAGE)]


def test_a_tail_is_covered_once_whatever_its_capacity() -> None:
    capacities = [0, 1, 512, 4_096, 4_097, 10_000]
    cut = plan([Group([], [Tail(0, capacity) for capacity in capacities])], {"exact": 66})
    for seat, capacity in enumerate(capacities):
        rows = [row for row in cut.items["exact"].tolist() if row[5] == seat]
        assert [token for row in rows for token in range(row[6], row[6] + row[1])] == list(range(capacity))
        assert all(row[0] == row[6] for row in rows)


def test_the_exact_end_of_a_document_may_end_within_a_page() -> None:
    cut = plan([Group([Span("exact", 1_024, 1_000)], [Tail(0, 10)])], {"exact": 66})
    assert covered(cut, "exact", 0) == [(1_024, 2_024)]


def test_seats_on_one_document_share_its_items_and_keep_their_own_tails() -> None:
    cut = plan([Group([Span("fp8", 0, 10 * PAGE)], [Tail(0, 600), Tail(600, 100)])], {"exact": 66, "fp8": 4})
    assert {tuple(row[2:4]) for row in cut.items["fp8"].tolist()} == {(0, 2)}
    assert [(r[0], r[1], r[2], r[3], r[5], r[6]) for r in cut.items["exact"].tolist()] == [
        (0, 512, 0, 1, 0, 0),
        (512, 88, 0, 1, 0, 512),
        (600, 100, 1, 1, 1, 0),
    ]


def test_each_part_of_each_seat_is_written_by_one_item() -> None:
    cut = plan(
        [
            Group([Span("exact", 0, PAGE), Span("fp8", 0, 40 * PAGE)], [Tail(9_000, 700), Tail(9_700, 20)]),
            Group([], [Tail(9_800, 0)]),
            Group([Span("fp8", 40 * PAGE, 5 * PAGE)], [Tail(9_900, 512)]),
        ],
        {"exact": 12, "fp8": 8},
    )
    for seat, parts in enumerate(cut.part_counts.tolist()):
        written = sorted(
            part
            for rows in cut.items.values()
            for _, _, first, seats, part, *_ in rows.tolist()
            if first <= seat < first + seats
        )
        assert written == list(range(parts))
    assert cut.part_counts[2] == 0


def test_more_documents_than_programs_still_get_an_item_each() -> None:
    groups = [Group([Span("fp8", number * PAGE, PAGE)], [Tail(0, 1)]) for number in range(5)]
    cut = plan(groups, {"exact": 2, "fp8": 2})
    assert len(cut.items["fp8"]) == 5
