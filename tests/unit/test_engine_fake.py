"""The fake engine keeps the real one's promises."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest

from worker.engine import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    EngineStopped,
    Event,
    FakeEngine,
    Finished,
    JsonSchemaMask,
    OutOfMemory,
    PromptTooLong,
    QuoteMask,
    ReadProgress,
    Request,
    Sampling,
    TextDelta,
    TokenMask,
    Turn,
)

DOCUMENT = "Ein Bär schläft. " * 100


def request(engine: FakeEngine, text: str = DOCUMENT, question: str = "What?", **options: Any) -> Request:
    prefix = engine.tokenizer.prefix("Be exact.", text)
    suffix = engine.tokenizer.suffix([Turn("user", question)])
    return Request(prefix.ids, suffix, **options)


def written(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_events_come_as_progress_then_text_then_one_finish() -> None:
    engine = FakeEngine({"What?": "A bear: Bär."})
    events = list(engine.submit(request(engine)))
    order = [type(event) for event in events]
    assert order == sorted(order, key=[ReadProgress, TextDelta, Finished].index)
    assert written(events) == "A bear: Bär."
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "stop"
    assert finished.usage.completion_tokens == sum(e.tokens for e in events if isinstance(e, TextDelta))
    progress = [event for event in events if isinstance(event, ReadProgress)]
    assert progress[-1].tokens_read == progress[-1].tokens_total
    assert [p.tokens_read for p in progress] == sorted(p.tokens_read for p in progress)


def test_without_a_script_the_beginning_of_the_document_is_echoed() -> None:
    engine = FakeEngine()
    answer = written(engine.submit(request(engine)))
    assert answer
    assert DOCUMENT.startswith(answer)


def test_a_script_may_be_a_function_of_the_prompt() -> None:
    engine = FakeEngine(lambda prompt: f"{prompt.count('schläft')} times")
    assert written(engine.submit(request(engine))) == "100 times"


def test_a_script_may_fail_as_the_real_engine_would() -> None:
    def fail(prompt: str) -> str:
        raise OutOfMemory

    engine = FakeEngine(fail)
    with pytest.raises(OutOfMemory):
        list(engine.submit(request(engine)))


def test_a_document_read_before_is_not_read_again() -> None:
    engine = FakeEngine()
    list(engine.submit(request(engine)))
    events = list(engine.submit(request(engine, question="And now?")))
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.reused_tokens == finished.usage.prefix_tokens > 0
    assert len([event for event in events if isinstance(event, ReadProgress)]) == 1
    assert engine.capacity().prefixes_held == 1


def test_what_was_read_of_a_forgotten_owner_is_read_again() -> None:
    engine = FakeEngine()
    for owners in ("one", "two"), ("three",):
        list(engine.submit(request(engine, owners[0], owners=frozenset(owners))))
    assert engine.owners() == {"one", "two", "three"}
    engine.forget({"two"})
    assert engine.owners() == {"three"}
    assert engine.capacity().prefixes_held == 1


def test_the_answer_is_cut_at_max_tokens() -> None:
    engine = FakeEngine({"What?": "a long answer"})
    events = list(engine.submit(request(engine, sampling=Sampling(max_tokens=6))))
    assert written(events) == "a long"
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "length"


def test_a_held_read_can_be_cancelled_and_leaves_what_was_read() -> None:
    engine = FakeEngine(hold_reading=threading.Event())
    generation = engine.submit(request(engine))
    events = iter(generation)
    first = next(events)
    assert isinstance(first, ReadProgress)
    assert first.tokens_read < first.tokens_total
    assert engine.capacity().active == 1
    generation.cancel()
    with pytest.raises(Cancelled):
        next(events)
    assert engine.capacity().active == 0
    resumed = next(iter(engine.submit(request(engine))))
    assert isinstance(resumed, ReadProgress)
    assert resumed.tokens_reused == first.tokens_read


def test_a_held_read_goes_on_when_released() -> None:
    hold = threading.Event()
    engine = FakeEngine({"What?": "A bear."}, hold_reading=hold)
    events = iter(engine.submit(request(engine)))
    next(events)
    hold.set()
    assert written(events) == "A bear."


def test_a_passed_deadline_ends_the_request() -> None:
    engine = FakeEngine()
    with pytest.raises(DeadlineExceeded):
        list(engine.submit(request(engine, deadline=time.monotonic())))


def test_a_closed_engine_stops_waiting_and_running_requests() -> None:
    engine = FakeEngine()
    waiting, running = engine.submit(request(engine)), iter(engine.submit(request(engine)))
    next(running)
    engine.close()
    for events in (iter(waiting), running):
        with pytest.raises(EngineStopped):
            next(events)


def test_a_prompt_that_cannot_fit_is_refused_with_both_figures() -> None:
    engine = FakeEngine(window=1_000)
    with pytest.raises(PromptTooLong) as refusal:
        list(engine.submit(request(engine)))
    assert refusal.value.tokens > refusal.value.tokens_fit == engine.capacity().tokens_fit == 1_000
    assert "1,000" in str(refusal.value)


def test_a_json_mask_overrules_the_script() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "pages": {"type": "integer"}},
        "required": ["name", "pages"],
        "additionalProperties": False,
    }
    engine = FakeEngine({"What?": "not JSON at all"})
    mask = JsonSchemaMask(schema, engine.tokenizer)
    answer = json.loads(written(engine.submit(request(engine, mask=mask))))
    assert set(answer) == {"name", "pages"}


def test_a_script_that_fits_the_mask_is_kept() -> None:
    engine = FakeEngine({"What?": '{"name": "Bär"}'})
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False}
    mask: TokenMask = JsonSchemaMask(schema, engine.tokenizer)
    assert json.loads(written(engine.submit(request(engine, mask=mask)))) == {"name": "Bär"}


def test_a_quote_mask_makes_the_answer_pick_a_passage_of_the_document() -> None:
    engine = FakeEngine({"What?": "schläft wie ein Stein"})
    prefix = engine.tokenizer.prefix("Be exact.", DOCUMENT)
    words = [i for i, byte in enumerate(prefix.ids) if byte == ord("s")]
    stops = [prefix.ids.index(ord("."), word) for word in words]
    mask = QuoteMask(prefix.ids, words, stops, stop_id=engine.tokenizer.stop_ids[0])
    answer = written(engine.submit(request(engine, mask=mask)))
    assert "schläft".startswith(answer)
    assert engine.tokenizer.decode(prefix.ids[slice(*mask.passage)]) == "schläft"


def test_every_error_has_its_own_code_and_says_something() -> None:
    classes = EngineError.__subclasses__()
    assert len({cls.code for cls in classes}) == len(classes)
    assert all(str(cls()) for cls in classes if cls is not PromptTooLong)
