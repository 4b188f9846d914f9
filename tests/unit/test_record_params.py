"""What may be asked, checked at the door."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from jobs.params import PARAMS, AskParams, ExtractParams, NewBatch, NewJob, OwnParams, dialect_of
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


BODIES: tuple[type[BaseModel], ...] = (*PARAMS.values(), OwnParams, NewJob, NewBatch)


def numbers(model: type[BaseModel]) -> list[str]:
    """Names of the fields that take a number."""
    fields = model.model_json_schema()["properties"].items()
    kinds = {name: {kind.get("type") for kind in (field, *field.get("anyOf", ()))} for name, field in fields}
    return [name for name, types in kinds.items() if types & {"integer", "number"}]


@pytest.mark.parametrize("value", ["1", True])
@pytest.mark.parametrize(("model", "name"), [(model, name) for model in BODIES for name in numbers(model)])
def test_a_number_is_neither_text_nor_true(model: type[BaseModel], name: str, value: object) -> None:
    with pytest.raises(ValidationError) as told:
        model.model_validate({name: value})
    assert (name,) in {error["loc"] for error in told.value.errors()}


def test_a_whole_number_may_have_a_point() -> None:
    assert new(params={**LEAST[Kind.ASK], "max_tokens": 5.0}).checked().max_tokens == 5


def test_one_question_is_a_list_of_one() -> None:
    checked = new().checked()
    assert isinstance(checked, AskParams)
    assert checked.instructions() == ["Is it so?"]


#: As draft-04 has it, and no later one.
BOUNDED: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 3, "exclusiveMinimum": True}},
}


@pytest.mark.parametrize("end", ["", "#"])
def test_a_schema_is_judged_by_the_dialect_it_declares(end: str) -> None:
    schema = {"$schema": f"http://json-schema.org/draft-04/schema{end}", **BOUNDED}
    assert ExtractParams.model_validate({"schema": schema}).json_schema == schema
    judge = dialect_of(schema)(schema)
    assert [judge.is_valid({"a": number}) for number in (3, 4)] == [False, True]


@pytest.mark.parametrize("types", [{}, {"type": ["object", "boolean"]}])
def test_a_top_that_may_be_an_object_is_one(types: dict[str, Any]) -> None:
    schema = {"properties": {"a": {"type": "string"}}}
    made = ExtractParams.model_validate({"schema": {**schema, **types}})
    assert made.json_schema == {**schema, "type": "object"}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "nonsense"}, "at type"),
        ({"type": "object", "properties": {"a": {"minimum": "x"}}}, "at properties/a/minimum"),
        ({"type": "array"}, "must be an object"),
        ({"type": "object"}, "with properties"),
        ({"oneOf": [{"type": "object"}, {"type": "string"}]}, "must be an object"),
        ({"$schema": "http://json-schema.org/draft-03/schema#", **BOUNDED}, "draft-03"),
        ({"$schema": ["draft-07"], **BOUNDED}, "draft-07"),
        (BOUNDED, r"\(2020-12\): at properties/a/exclusiveMinimum"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", **BOUNDED}, r"draft-07/schema#\): at prop"),
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
        {"metadata": {"a" * 65: ""}},
        {"metadata": {"a": "x" * 1_001}},
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


@pytest.mark.parametrize("kind", ["", "x" * 41])
def test_a_kind_that_can_have_no_name_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match="kind"):
        NewJob.model_validate({"kind": kind, "document_ids": ["doc_1"]})


def test_a_comparison_is_no_batch() -> None:
    with pytest.raises(ValidationError, match="batch"):
        NewBatch(kind=Kind.COMPARE, document_ids=["doc_1", "doc_2"])
