"""Extract: fields as JSON that fits a schema, each with the passage that states it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator

from jobs.params import ExtractParams
from worker.assignment import Answer, Assignment, Result, wish
from worker.citations import Citation, unique
from worker.engine import JsonSchemaMask, Turn
from worker.errors import OutputCutOff, OutputInvalid
from worker.mention import mentioned, mentions_all
from worker.section import Section
from worker.source import passages


def run(job: Assignment) -> Result:
    """The object, and for each of its fields the value as text with its citation.

    Read in sections, a field's value is that of the first section whose text holds it, else the first's.

    Raises:
        OutputCutOff: the JSON was not complete within `max_tokens`.
        OutputInvalid: what came out does not fit the schema.
    """
    params = job.params
    assert isinstance(params, ExtractParams)
    instruction = job.prompts.fill(
        "extract",
        instruction=wish("Note", params.instruction),
        schema=json.dumps(params.json_schema, ensure_ascii=False),
    )
    turns = [Turn("user", instruction)]
    found = [(section, _object(job, section, turns, params.json_schema)) for section in job.sections]
    job.reader.checking()
    fields = _merged(found, Draft202012Validator(params.json_schema))
    answers = [
        Answer(name, _as_text(value), _support(job, section, turns, name, value))
        for name, (section, value) in fields.items()
    ]
    return Result(answers, {name: value for name, (_, value) in fields.items()})


def _merged(
    found: list[tuple[Section, dict[str, Any]]], schema: Draft202012Validator
) -> dict[str, tuple[Section, Any]]:
    """Each field with its section: the best of each, or one section's object where these do not fit."""
    names = dict.fromkeys(name for _, value in found for name in value)
    best = {
        name: _best([(section, value[name]) for section, value in found if name in value]) for name in names
    }
    whole = [{name: (section, field) for name, field in value.items()} for section, value in found]
    for fields in [best, *whole]:
        if schema.is_valid({name: value for name, (_, value) in fields.items()}):
            return fields
    raise OutputInvalid


def _object(job: Assignment, section: Section, turns: list[Turn], schema: dict[str, Any]) -> dict[str, Any]:
    sampling = replace(job.sampling(1024), repetition_penalty=1.0)  # keys and numbers do repeat
    mask = JsonSchemaMask(schema, job.reader.engine.tokenizer)
    written = job.reader.write(section, turns, sampling, mask=mask, draft=True)
    try:
        value: dict[str, Any] = json.loads(written.text)
    except json.JSONDecodeError as exc:
        raise OutputCutOff from exc
    return value


def _best(candidates: list[tuple[Section, Any]]) -> tuple[Section, Any]:
    for section, value in candidates:
        if mentions_all(section.text, value):
            return section, value
    return candidates[0]


def _support(job: Assignment, section: Section, turns: list[Turn], name: str, value: Any) -> list[Citation]:
    """A passage that holds the value; none if no passage does."""
    holding = {
        piece.text[span.start : span.end]
        for piece in section.pieces
        for span in passages(piece.text)
        if mentioned(piece.text[span.start : span.end], value)
    }
    if not holding:
        return []
    return unique(job.quote(section, turns, f"{name}: {_as_text(value)}", only=holding))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
