"""Extract: fields as JSON that fits a schema, each with the passages that state it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jsonschema.protocols import Validator

from jobs.params import ExtractParams, dialect_of
from worker.assignment import Answer, Assignment, Result, wish
from worker.citations import Citation, unique, verify
from worker.dictation import dictate
from worker.engine import Sampling, Turn
from worker.errors import OutputInvalid
from worker.mention import mentioned, mentions_all
from worker.section import Section
from worker.source import passages

#: Tokens of a piece of the object, where the user sets no limit; longer ones are gone on with.
PIECE = 1_024
#: Tokens of the reason why a field is null.
REASON = 60


def run(job: Assignment) -> Result:
    """The object, and for each of its fields the value as text with its citations.

    Read in sections, a list is what all sections have of it, and any other field's value is that of the first
    section whose text holds it, else the first's that is not null.

    Raises:
        OutputCutOff: the JSON was not complete within `max_tokens`, or within what there is room for.
        OutputInvalid: what came out does not fit the schema.
    """
    params = job.params
    assert isinstance(params, ExtractParams)
    schema = params.json_schema
    instruction = job.prompts.fill(
        "extract",
        instruction=wish("Note", params.instruction),
        schema=json.dumps(schema, ensure_ascii=False),
    )
    turns = [Turn("user", instruction)]
    sampling = replace(job.sampling(PIECE), repetition_penalty=1.0)  # keys and numbers do repeat
    dictated = [
        (section, dictate(job.reader, section, turns, schema, sampling, limit=params.max_tokens))
        for section in job.sections
    ]
    job.reader.checking()
    found = [(section, one.value) for section, one in dictated]
    fields = _merged(found, dialect_of(schema)(schema))
    cut_off = any(one.shortened for _, one in dictated)
    answers = job.reader.together(
        [partial(_answer, job, section, turns, name, value) for name, (section, value) in fields.items()]
    )
    answers = [replace(answer, cut_off=cut_off) for answer in answers]
    return Result(answers, {name: value for name, (_, value) in fields.items()})


Field = tuple[Section, Any]  #: a value, and the section that gave it


def _merged(found: Sequence[tuple[Section, dict[str, Any]]], schema: Validator) -> dict[str, Field]:
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


def _best(candidates: Sequence[Field]) -> Field:
    if all(isinstance(value, list) for _, value in candidates):
        return candidates[0][0], _joined([value for _, value in candidates])
    for section, value in candidates:
        if mentions_all(section.text, value):
            return section, value
    return next(((section, value) for section, value in candidates if value is not None), candidates[0])


def _joined(lists: Sequence[list[Any]]) -> list[Any]:
    """The items of all lists; one that an earlier list has is not taken again, a list's own repeats are."""
    joined: list[Any] = []
    for items in lists:
        joined += [item for item in items if item not in joined]
    return joined if len(lists) > 1 else lists[0]


def _answer(job: Assignment, section: Section, turns: Sequence[Turn], name: str, value: Any) -> Answer:
    if value is None:
        return Answer(name, _reason(job, section, turns, name), [], found=False)
    if isinstance(value, list):
        held = [_stated(job.sections, item) for item in value]
        return Answer(name, _as_text(value), unique(verify(words, job.sources) for words in held if words))
    return Answer(name, _as_text(value), _support(job, section, turns, name, value))


def _reason(job: Assignment, section: Section, turns: Sequence[Turn], name: str) -> str:
    """Why a field is null, in the model's words; read in sections, none of them can tell for all."""
    if len(job.sections) > 1:
        return f"None of the {len(job.sections)} sections states it."
    instruction = job.prompts.fill("extract-null", field=name)
    asked = [Turn("user", instruction)]
    written = job.reader.write(section, asked, Sampling(max_tokens=REASON), check=True)
    return written.text or "The document does not say."


def _support(
    job: Assignment, section: Section, turns: Sequence[Turn], name: str, value: Any
) -> list[Citation]:
    """A passage that holds the value, the model's choice where several do; none if no passage does."""
    holding = set(_holding([section], value))
    if len(holding) == 1:
        return [verify(holding.pop(), job.sources)]
    if not holding:
        return []
    return unique(job.quote(section, turns, f"{name}: {_as_text(value)}", only=holding))


def _stated(sections: Sequence[Section], item: Any) -> str | None:
    """The passage that states most of an item of a list: all of it, or the first that states any."""
    first = None
    for words in _holding(sections, item):
        first = first or words
        if mentions_all(words, item):
            return words
    return first


def _holding(sections: Sequence[Section], value: Any) -> Iterator[str]:
    """Passages that state any part of a value."""
    for section in sections:
        for piece in section.pieces:
            if mentioned(piece.text, value):
                for span in passages(piece.text):
                    if mentioned(words := piece.text[span.start : span.end], value):
                        yield words


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
