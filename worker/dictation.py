"""Dictation: an object written under a schema, and gone on with where it was cut off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from worker.engine import JsonSchemaMask, Sampling, Turn, UnsupportedSchema
from worker.errors import OutputCutOff, OutputInvalid
from worker.reader import Reader
from worker.section import Section

#: Tokens kept free of what there is for instruction and answer.
_SPARE = 64
#: Characters of a text and items of a list in an object that is kept short.
_TEXT, _ITEMS = 60, 3
#: Characters of a text that has a form; greatest number, and none finer than a hundredth.
_MATCHED, _NUMBER = 200, 10**12
_PLAIN = {"type": ["string", "number", "boolean", "null"], "maxLength": _TEXT}
#: What is under these is a value, not a schema.
_VALUES = frozenset({"const", "enum", "default", "examples", "required"})


@dataclass(frozen=True, slots=True)
class Dictated:
    """An object, and whether it had to be kept short to come to an end."""

    value: dict[str, Any]
    shortened: bool = False


def dictate(
    reader: Reader,
    section: Section,
    turns: Sequence[Turn],
    schema: dict[str, Any],
    sampling: Sampling,
    *,
    limit: int | None = None,
) -> Dictated:
    """The object that the model writes about a section, pieces of `sampling.max_tokens` joined.

    Nothing is mended: a piece goes on at the very character where the one before it ended, under the grammar
    in the state that it had reached. `limit`: tokens of the whole. Without one there is what the model has
    room for, and an object that has no end there (a weak model that repeats itself) is written once more
    under `shortened(schema)`.

    Raises:
        OutputCutOff: it was not complete within the limit.
        OutputInvalid: a number in it is too large to be held.
    """
    tokenizer = reader.engine.tokenizer
    asked = sum(tokenizer.count(turn.text) for turn in turns)
    room = max(sampling.max_tokens, reader.room - asked - _SPARE)
    if limit is not None:
        return Dictated(_whole(reader, section, turns, schema, sampling=sampling, left=limit))
    try:
        return Dictated(_whole(reader, section, turns, schema, sampling=sampling, left=room))
    except OutputCutOff as exc:
        try:
            short = _whole(reader, section, turns, shortened(schema), sampling=sampling, left=room)
        except UnsupportedSchema:  # its parts contradict each other once they are closed
            raise exc from None
        return Dictated(short, shortened=True)


def shortened(schema: Any) -> Any:
    """A schema that allows less than `schema` does, in which texts, lists and open objects come to an end."""
    if isinstance(schema, list):
        return [shortened(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    short = {name: part if name in _VALUES else shortened(part) for name, part in schema.items()}
    kinds = schema.get("type", ())
    if not isinstance(kinds, str | list) or not {"const", "enum"}.isdisjoint(schema):
        return short
    if "string" in kinds:
        most = max(_MATCHED if {"pattern", "format"} & schema.keys() else _TEXT, schema.get("minLength", 0))
        short["maxLength"] = min(schema.get("maxLength", most), most)
    if "number" in kinds or "integer" in kinds:
        finest = {"multipleOf": 0.01} if "number" in kinds else {}
        short = {"minimum": -_NUMBER, "maximum": _NUMBER, **finest} | short
    if "array" in kinds:
        most = max(_ITEMS, schema.get("minItems", 0))
        short["maxItems"] = min(schema.get("maxItems", most), most)
    if "object" in kinds and not {"minProperties", "maxProperties"} & schema.keys():
        short |= _closed(short)
    return short


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Of an object: the properties it needs and a few more; of one that may have any, a few plain ones."""
    properties, needed = schema.get("properties", {}), schema.get("required", [])
    if not properties:
        values = schema.get("additionalProperties")
        few = {} if needed else {"maxProperties": _ITEMS}
        return few | ({} if isinstance(values, dict) else {"additionalProperties": _PLAIN})
    more = [name for name in properties if name not in needed][:_ITEMS]
    kept = {name: part for name, part in properties.items() if name in needed or name in more}
    return {"properties": kept} | ({"additionalProperties": False} if kept.keys() >= set(needed) else {})


def _whole(
    reader: Reader,
    section: Section,
    turns: Sequence[Turn],
    schema: dict[str, Any],
    *,
    sampling: Sampling,
    left: int,
) -> dict[str, Any]:
    written = ""
    while left > 0:
        piece = min(sampling.max_tokens, left)
        left -= piece
        more = reader.write(
            section,
            turns,
            replace(sampling, max_tokens=piece),
            mask=JsonSchemaMask(schema, reader.engine.tokenizer, written),
            answer_start=written,
            draft=0,
        )
        written += more.raw.rstrip("\ufffd")  # half a character, cut off
        if not more.cut_off:
            try:
                value: dict[str, Any] = json.loads(written)
                json.dumps(value, allow_nan=False)
            except ValueError as exc:  # a number that nothing holds
                raise OutputInvalid from exc
            return value
    raise OutputCutOff
