"""Masks: verbatim passages and enforceable schemas."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pytest

from worker.engine import QuoteMask, UnsupportedSchema, check_schema

STOP = 9_999


def every_passage(ids: list[int], starts: Iterable[int], ends: Iterable[int]) -> set[tuple[int, ...]]:
    """All passages that the mask lets an answer pick."""
    picked: set[tuple[int, ...]] = set()

    def walk(generated: list[int]) -> None:
        mask = QuoteMask(ids, list(starts), list(ends), stop_id=STOP)
        for length in range(len(generated)):
            mask.allowed(generated[:length])
        allowed = mask.allowed(generated).tolist()
        if STOP in allowed or not allowed:
            start, end = mask.passage
            assert ids[start:end][: len(generated)] == generated
            picked.add(tuple(ids[start:end]))
        for token in allowed:
            if token != STOP:
                walk([*generated, token])

    walk([])
    return picked


def test_exactly_the_passages_can_be_picked() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        ids = rng.integers(0, 3, 14).tolist()
        starts = rng.choice(14, 6)
        ends = np.minimum(starts + rng.integers(0, 6, 6), 14)
        passages = {tuple(ids[start:end]) for start, end in zip(starts, ends, strict=True) if start < end}
        if passages:
            assert every_passage(ids, starts, ends) == passages


def test_stopping_is_offered_where_one_passage_ends_and_another_goes_on() -> None:
    mask = QuoteMask([1, 2, 3], [0, 0], [2, 3], stop_id=STOP)
    assert mask.allowed([]).tolist() == [1]
    assert mask.allowed([1]).tolist() == [2]
    assert mask.allowed([1, 2]).tolist() == [3, STOP]
    assert mask.passage == (0, 2)
    assert mask.allowed([1, 2, 3]).tolist() == []
    assert mask.passage == (0, 3)


def test_nothing_more_is_written_once_the_passage_is_certain() -> None:
    mask = QuoteMask([1, 2, 3, 4, 1, 5, 6, 7], [0, 4], [4, 8], stop_id=STOP)
    assert mask.allowed([1]).tolist() == [2, 5]
    assert mask.allowed([1, 5]).tolist() == []
    assert mask.passage == (4, 8)


def test_a_mask_without_any_passage_is_refused() -> None:
    with pytest.raises(ValueError, match="passage"):
        QuoteMask([1, 2, 3], [2], [2], stop_id=STOP)


def test_later_steps_at_a_million_tokens_are_far_cheaper_than_the_first() -> None:
    ids = np.random.default_rng(1).integers(0, 8, 1_000_000)
    places = np.arange(len(ids) - 64)
    mask = QuoteMask(ids, places, places + 64, stop_id=STOP)
    seconds = []
    for length in range(7):
        begin = time.perf_counter()
        allowed = mask.allowed(ids[500_000 : 500_000 + length].tolist())
        seconds.append(time.perf_counter() - begin)
        assert not allowed.size or ids[500_000 + length] in allowed
    assert min(seconds[3:]) < seconds[0] / 5


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objct"},
        {"not": {"type": "string"}},
        {"type": "array", "uniqueItems": True},
        {"type": "string", "pattern": "(?=a)b"},
        {"properties": {"a": {"$ref": "https://example.com/schema"}}},
        {"x-guidance": {"lenient": True}, "not": {"type": "string"}},
        {"type": "string", "format": "iri"},
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
        {"properties": {"format": {"type": "string", "format": "of our own"}}, "required": ["format"]},
    ],
)
def test_an_enforceable_schema_is_accepted(schema: dict[str, object]) -> None:
    check_schema(schema)
