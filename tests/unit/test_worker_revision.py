"""Revisions: no word that differs between two versions is missed, and what is the same is left alone."""

from __future__ import annotations

import random

import pytest

from parsers import Document, Page
from worker.revision import Revision, compare, plain
from worker.source import Source

LEASE = (
    "1. The Tenant pays € 900 each month.",
    "2. The Tenant may keep one dog.",
    "3. The Landlord repairs the roof within thirty days.",
    "4. Either side may end the lease with three months' notice.",
)


def version(*pages: str, paged: bool = True) -> Source:
    numbered = tuple(Page(number, text) for number, text in enumerate(pages, 1))
    return Source("doc", "a.txt", Document(numbered, None, "text/plain", paged, (), "text/1"))


def text(*clauses: str) -> Source:
    return version("\n\n".join(clauses))


def told(revision: Revision) -> list[tuple[str, str, str]]:
    """Kind, what went and what came, of each change."""
    return [
        (
            change.kind,
            "|".join(words for op, words in change.words if op == "-"),
            "|".join(words for op, words in change.words if op == "+"),
        )
        for change in revision.changes
    ]


def test_the_same_text_has_no_changes() -> None:
    revision = compare(text(*LEASE), text(*LEASE))
    assert (revision.changes, revision.unchanged) == ([], 4)


def test_a_changed_word_is_told_alone() -> None:
    changed = [clause.replace("thirty", "sixty") for clause in LEASE]
    assert told(compare(text(*LEASE), text(*changed))) == [("changed", "thirty", "sixty")]


def test_a_clause_that_came_and_one_that_went_are_told_and_those_after_are_renumbered() -> None:
    later = [LEASE[0], "2. Smoking is forbidden.", "3. The Tenant may keep one dog.", LEASE[3]]
    assert told(compare(text(*LEASE), text(*later))) == [
        ("added", "", "2. Smoking is forbidden."),
        ("renumbered", "2", "3"),
        ("removed", LEASE[2], ""),
    ]


def test_a_clause_in_another_place_is_moved() -> None:
    later = [LEASE[3], *LEASE[:3]]
    assert [change.kind for change in compare(text(*LEASE), text(*later)).changes] == ["moved"]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("30 days after notice it ends.", "45 days after notice it ends.", "changed"),
        ("30 Tage Frist gelten.", "60 Tage Frist gelten.", "changed"),
        ("1.5 million people live there.", "2.5 million people live there.", "changed"),
        ("12.50 EUR are due.", "13.50 EUR are due.", "changed"),
        ("30. Juni 2024 ist der letzte Tag.", "28. Juni 2024 ist der letzte Tag.", "changed"),
        ("3. Maintenance of the roof", "4. Maintenance of the roof", "renumbered"),
        ("2. It is due.", "3. It is due.", "renumbered"),
        ("2.1 Duties of both", "3.1 Duties of both", "renumbered"),
        ("2.1) Duties of both", "3.1) Duties of both", "renumbered"),
    ],
)
def test_an_amount_at_the_head_of_a_line_is_no_number_of_it(before: str, after: str, kind: str) -> None:
    revision = compare(text(before, *LEASE), text(after, *LEASE))
    assert [change.kind for change in revision.changes] == [kind]


@pytest.mark.parametrize(
    "reset",
    [
        "The Landlord repairs\nthe roof within thirty days.",
        "The  Landlord repairs the roof within thir-\nty days.",
        "The Landlord repairs the roof within thirty\u00a0days.",
    ],
)
def test_other_typesetting_is_no_change(reset: str) -> None:
    assert compare(text("The Landlord repairs the roof within thirty days."), text(reset)).changes == []


def test_a_text_paged_otherwise_has_no_changes() -> None:
    words = [f"Clause {number} says that what is owed is paid on day {number}." for number in range(60)]
    four = version(*("\n".join(words[at : at + 15]) for at in range(0, 60, 15)))
    six = version(*("\n".join(words[at : at + 10]) for at in range(0, 60, 10)))
    assert compare(four, six).changes == []


def test_an_amount_at_the_foot_of_every_page_is_compared_on_every_page() -> None:
    months = ("January", "February", "March", "April", "May", "June", "July", "August")
    pages = [f"What was paid in {month}, and by whom.\nTotal: {37 * len(month)} EUR." for month in months]
    later = [*pages[:6], pages[6].replace("Total: ", "Total: 9"), pages[7]]
    assert told(compare(version(*pages), version(*later))) == [("changed", "148", "9148")]


def test_what_every_page_repeats_is_compared_once() -> None:
    body = [f"What page {'ABCDEFGH'[number]} says stands nowhere else." for number in range(8)]
    before = version(*(f"Draft of May\n\n{line}\n\n{number} of 8" for number, line in enumerate(body)))
    after = version(*(f"Draft of June\n\n{line}\n\n{number} of 8" for number, line in enumerate(body)))
    assert told(compare(before, after)) == [("changed", "May", "June")]


def test_two_texts_that_are_no_versions_are_known_to_be_none() -> None:
    other = ["A pump moves water.", "Its seal is made of rubber.", "It was built in Bergen.", "It is blue."]
    assert not compare(text(*LEASE), text(*other)).same_text
    assert compare(text(*LEASE), text(*LEASE[:3])).same_text


def test_a_change_points_into_its_pages() -> None:
    before, after = version(*LEASE), version(LEASE[0], *(line.replace("dog", "cat") for line in LEASE[1:]))
    [change] = compare(before, after).changes
    assert change.before is not None
    assert change.after is not None
    assert (change.before.page, change.after.page) == (1, 1)
    for side, source in ((change.before, before), (change.after, after)):
        assert source.document.pages[side.page].text[side.start : side.end] == side.text


def test_of_a_thousand_random_edits_none_is_missed() -> None:
    """The words that were added are all in changes, and so is every paragraph that was touched."""
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(2_000)]
    lines = [" ".join(rng.choices(words, k=14)).capitalize() + "." for _ in range(1_500)]
    edited = [line.split() for line in lines]
    marks = []
    for number in range(1_000):
        line = edited[rng.randrange(len(edited))]
        mark = f"mark{number}q"
        line.insert(rng.randrange(len(line)), mark)
        marks.append(mark)
        if len(line) > 10 and rng.random() < 0.5:
            del line[rng.randrange(5)]
    later = [" ".join(line) for line in edited]
    revision = compare(text(*lines), text(*later))
    added = " ".join(words for change in revision.changes for op, words in change.words if op == "+")
    whole = " ".join(later)
    assert [mark for mark in marks if mark in whole and mark not in added] == []
    touched = {plain(change.before.text) for change in revision.changes if change.before}
    assert {line for line, new in zip(lines, later, strict=True) if line != new} <= touched
