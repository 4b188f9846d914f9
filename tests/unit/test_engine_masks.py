"""Masks: verbatim passages and enforceable schemas."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pytest

from worker.engine import QuoteMask, UnsupportedSchema, check_schema

STOP = 9_999


def every_answer(ids: list[int], starts: Iterable[int], ends: Iterable[int]) -> set[tuple[int, ...]]:
    """All token sequences that the mask lets through."""
    answers: set[tuple[int, ...]] = set()

    def walk(generated: list[int]) -> None:
        mask = QuoteMask(ids, list(starts), list(ends), stop_id=STOP)
        for length in range(len(generated)):
            mask.allowed(generated[:length])
        allowed = mask.allowed(generated).tolist()
        if STOP in allowed or not allowed:
            answers.add(tuple(generated))
        for token in allowed:
            if token != STOP:
                walk([*generated, token])

    walk([])
    return answers


def test_exactly_the_passages_can_be_written() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        ids = rng.integers(0, 3, 14).tolist()
        starts = rng.choice(14, 6)
        ends = np.minimum(starts + rng.integers(0, 6, 6), 14)
        passages = {tuple(ids[start:end]) for start, end in zip(starts, ends, strict=True) if start < end}
        if passages:
            assert every_answer(ids, starts, ends) == passages


def test_stopping_is_offered_where_one_passage_ends_and_another_goes_on() -> None:
    mask = QuoteMask([1, 2, 3], [0, 0], [2, 3], stop_id=STOP)
    assert mask.allowed([]).tolist() == [1]
    assert mask.allowed([1]).tolist() == [2]
    assert mask.allowed([1, 2]).tolist() == [3, STOP]
    assert mask.allowed([1, 2, 3]).tolist() == []


def test_a_mask_without_any_passage_is_refused() -> None:
    with pytest.raises(ValueError, match="passage"):
        QuoteMask([1, 2, 3], [2], [2], stop_id=STOP)


def test_later_steps_at_a_million_tokens_are_far_cheaper_than_the_first() -> None:
    ids = np.random.default_rng(1).zipf(1.3, 1_000_000) % 50_000
    places = np.arange(len(ids) - 64)
    mask = QuoteMask(ids, places, places + 64, stop_id=STOP)
    seconds = []
    for length in range(32):
        begin = time.perf_counter()
        allowed = mask.allowed(ids[500_000 : 500_000 + length].tolist())
        seconds.append(time.perf_counter() - begin)
        assert ids[500_000 + length] in allowed
    assert np.median(seconds[2:]) < seconds[0] / 5


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objct"},
        {"not": {"type": "string"}},
        {"type": "array", "uniqueItems": True},
        {"type": "string", "pattern": "(?=a)b"},
        {"properties": {"a": {"$ref": "https://example.com/schema"}}},
        {"x-guidance": {"lenient": True}, "not": {"type": "string"}},
        [],
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_the_reason(schema: dict[str, object]) -> None:
    with pytest.raises(UnsupportedSchema, match=r"cannot be enforced: .+"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False},
        {"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"enum": ["a", "b"]}}},
    ],
)
def test_an_enforceable_schema_is_accepted(schema: dict[str, object]) -> None:
    check_schema(schema)
