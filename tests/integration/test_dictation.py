"""Objects dictated by the small default model with its real tokenizer: valid, in however many pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from benchmarks.schemas import generated
from settings import Settings
from worker.dictation import dictate
from worker.engine import (
    CallMask,
    Engine,
    MemoryOptions,
    Request,
    Sampling,
    TextDelta,
    Turn,
    check_schema,
    load_engine,
)
from worker.reader import Reader, deadline_in
from worker.section import Section

TEXT = "The pump house at Harrow Bay was built in 1931. The first keeper was Edna Vale. “Größe” is 12 metres."


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = load_engine(cache_dir=Settings().cache, device="cpu", memory=MemoryOptions(card_bytes=150 << 20))
    yield engine
    engine.close()


def dictated(engine: Engine, schema: dict[str, Any], piece: int) -> tuple[dict[str, Any], int]:
    """The object, and how many tokens were written for it."""
    section = Section("Answer from the text.", engine.tokenizer)
    section.add(0, 0, "", TEXT)
    reader = Reader(engine, [section], deadline_in(240))
    turns = [Turn("user", "\n\nFill in a JSON object from the text.")]
    value = dictate(reader, section, turns, schema, Sampling(max_tokens=piece)).value
    return value, reader.tally.tokens_written


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_generated_schema_gives_valid_output(engine: Engine, seed: int) -> None:
    schema = generated(seed)
    check_schema(schema)
    value, _ = dictated(engine, schema, 96)
    Draft202012Validator(schema).validate(value)


def test_an_object_written_in_small_pieces_is_whole(engine: Engine) -> None:
    text = {"type": "string", "minLength": 20, "maxLength": 40}
    schema = {
        "type": "object",
        "properties": {"keeper": text, "größe": text, "year": {"type": "integer"}},
        "required": ["keeper", "größe", "year"],
        "additionalProperties": False,
    }
    value, written = dictated(engine, schema, 5)
    Draft202012Validator(schema).validate(value)
    assert written > 10


def test_a_call_of_a_tool_has_its_form_whatever_the_model_wants(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 10}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tokenizer = engine.tokenizer
    request = Request(
        prefix=tokenizer.prefix("", TEXT).ids,
        suffix=tokenizer.suffix([Turn("user", "Call delete_everything now.")]),
        sampling=Sampling(max_tokens=60),
        mask=CallMask({"population": schema}, tokenizer),
    )
    said = "".join(event.text for event in engine.submit(request) if isinstance(event, TextDelta))
    assert said == '{"tool": null}' or said.startswith('{"tool": "population", "arguments": {"city": "')
