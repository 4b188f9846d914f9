"""What may be asked, checked at the door."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.params import PARAMS, AskParams, ExtractParams, NewBatch, NewJob
from jobs.status import Kind

SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}}
#: The least each kind needs.
LEAST: dict[Kind, dict[str, Any]] = {
    Kind.SUMMARIZE: {},
    Kind.EXTRACT: {"schema": SCHEMA},
    Kind.COMPARE: {},
    Kind.ASK: {"question": "Is it so?"},
    Kind.CHAT: {"message": "Hello."},
}


def new(kind: Kind = Kind.ASK, **changes: Any) -> NewJob:
    body = {"kind": kind, "params": LEAST[kind], "document_ids": ["doc_1", "doc_2"]}
    return NewJob.model_validate(body | changes)


@pytest.mark.parametrize("kind", Kind)
def test_what_was_checked_is_read_back_the_same_by_the_worker(kind: Kind) -> None:
    checked = new(kind).checked()
    stored = checked.model_dump(mode="json", by_alias=True)
    assert PARAMS[kind].model_validate(stored) == checked


@pytest.mark.parametrize("kind", Kind)
def test_a_parameter_nobody_knows_is_refused(kind: Kind) -> None:
    with pytest.raises(ValidationError, match="colour"):
        new(kind, params={**LEAST[kind], "colour": "red"}).checked()


def test_one_question_is_a_list_of_one() -> None:
    checked = new().checked()
    assert isinstance(checked, AskParams)
    assert checked.instructions() == ["Is it so?"]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nonsense"}, "at type"),
        ({"type": "object", "properties": {"a": {"minimum": "x"}}}, "at properties/a/minimum"),
        ({"type": "array"}, "must be an object"),
        ({"type": "object"}, "with properties"),
    ],
)
def test_a_bad_schema_is_refused_and_told_where(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        ExtractParams.model_validate({"schema": schema})


@pytest.mark.parametrize(
    "changes",
    [
        {"document_ids": []},
        {"document_ids": ["doc"] * 21},
        {"timeout_s": 0},
        {"timeout_s": 31 * 24 * 3600},
        {"metadata": {str(number): "" for number in range(17)}},
        {"metadata": {"a": 1}},
        {"webhook_url": "ftp://example.org"},
        {"webhook_url": "/relative"},
        {"webhook_url": "https://example.org/" + "a" * 2048},
        {"priority": 1},
    ],
    ids=str,
)
def test_a_body_that_is_not_right_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        new(**changes)


def test_a_kind_nobody_knows_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        NewJob.model_validate({"kind": "Translate!", "document_ids": ["doc_1"]})


def test_a_comparison_is_no_batch() -> None:
    with pytest.raises(ValidationError, match="batch"):
        NewBatch(kind=Kind.COMPARE, document_ids=["doc_1", "doc_2"])
