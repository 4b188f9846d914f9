"""The needle test: texts with one sentence hidden in them, and what became of it."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from api.needle import Haystack, Trial, depths, haystack, judged, plot

STACK = Haystack("", "amber-1234")


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_needle_lies_at_its_depth_in_a_text_of_its_length(depth: float) -> None:
    stack = haystack(2_000, depth, seed=1)
    at = stack.text.index(f"The password of the harbour master is {stack.password}.")
    assert abs(at / len(stack.text) - depth) < 0.02
    assert 8_000 < len(stack.text) < 10_500


def test_no_two_texts_are_alike_and_the_same_seed_gives_the_same() -> None:
    texts = {haystack(500, depth, seed).text for depth in depths(5) for seed in range(3)}
    assert len(texts) == 15
    assert haystack(500, 0.5, 1) == haystack(500, 0.5, 1)


def test_depths_go_from_the_beginning_to_the_end() -> None:
    assert depths(5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert depths(1) == [0.5]


def job(text: str, *quotes: tuple[str, bool], status: str = "completed") -> Any:
    citations = [{"quote": quote, "verified": verified} for quote, verified in quotes]
    return {
        "status": status,
        "result": {"answers": [{"text": text, "citations": citations}]} if status == "completed" else None,
        "error": None if status == "completed" else {"message": "It does not fit."},
        "coverage": {"tokens": 510},
        "usage": {"read_s": 1.5},
    }


@pytest.mark.parametrize(
    ("done", "outcome"),
    [
        (job("It is amber-1234.", ("is amber-1234.", True)), "cited"),
        (job("It is amber-1234.", ("is amber-1234.", False)), "found"),
        (job("It is amber-1234.", ("Nothing of it.", True)), "found"),
        (job("It is ivory-1.", ("is amber-1234.", True)), "missed"),
        (job("", status="failed"), "failed"),
    ],
)
def test_a_trial_says_whether_it_was_given_and_cited(done: Any, outcome: str) -> None:
    assert judged(500, 0.5, STACK, done).outcome == outcome


def test_the_plot_has_a_cell_for_each_trial() -> None:
    done = [Trial(length, depth, "cited", 1, 1.0, "") for length in (100, 200) for depth in depths(4)]
    picture = ElementTree.fromstring(plot(done))
    assert len(picture.findall(".//{http://www.w3.org/2000/svg}rect")) == 8
