"""Dictation: a schema kept short allows nothing that the schema itself does not."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from worker.dictation import shortened

TEXT = {"type": "string"}


def allows(schema: dict[str, Any], value: Any) -> bool:
    return bool(Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize(
    ("schema", "long", "short"),
    [
        (TEXT, "x" * 61, "x" * 60),
        ({"type": ["string", "null"]}, "x" * 61, None),
        ({"type": "string", "minLength": 70}, "x" * 71, "x" * 70),
        ({"type": "array", "items": TEXT}, ["a"] * 4, ["a"] * 3),
        ({"type": "array", "items": TEXT}, ["x" * 61], ["x" * 60]),
        ({"type": "array", "minItems": 5}, [1] * 6, [1] * 5),
        ({"type": "object", "properties": {"a": TEXT}}, {"a": "b", "c": "d"}, {"a": "b"}),
        ({"type": "object"}, {"a": "x" * 61}, {"a": "x"}),
        ({"type": "object", "additionalProperties": TEXT}, dict.fromkeys("abcd", ""), {"a": ""}),
        ({"type": "number"}, 0.123, 0.5),
        ({"type": ["integer", "null"]}, 10**13, 10**12),
        ({"type": "string", "pattern": "^x*$"}, "x" * 201, "x" * 200),
        ({"anyOf": [TEXT, {"type": "integer"}]}, "x" * 61, 7),
    ],
)
def test_what_has_no_end_is_given_one(schema: dict[str, Any], long: Any, short: Any) -> None:
    assert allows(schema, long)
    assert allows(schema, short)
    assert not allows(shortened(schema), long)
    assert allows(shortened(schema), short)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": "x" * 100}, "x" * 100),
        ({"enum": ["x" * 100]}, "x" * 100),
        ({"type": "string", "pattern": "^x*$"}, "x" * 100),
        ({"type": "integer", "minimum": 3}, 5),
        ({"type": "object", "required": ["a"], "additionalProperties": TEXT}, {"a": "b"}),
    ],
)
def test_what_is_bound_already_stays_allowed(schema: dict[str, Any], value: Any) -> None:
    assert allows(shortened(schema), value)


def test_needed_properties_are_kept_however_many() -> None:
    names = [f"p{number}" for number in range(12)]
    schema = {"type": "object", "properties": dict.fromkeys(names, TEXT), "required": names[:9]}
    assert set(shortened(schema)["properties"]) == set(names[:12])
