"""The engine that runs a model: a tiny random one, watched through torch's own hooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from worker.engine import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    EngineStopped,
    Event,
    Finished,
    MemoryOptions,
    ModelCard,
    NotFinite,
    OutOfMemory,
    PromptTokenizer,
    PromptTooLong,
    ReadProgress,
    Request,
    Sampling,
    TextDelta,
)
from worker.engine.decoder import Decoder
from worker.engine.fake import ByteCodec
from worker.engine.local import LocalEngine
from worker.engine.memory import allocate, bytes_per_token
from worker.engine.page import PAGE
from worker.engine.writer import PlainWriter

WINDOW = 8_192
CHUNK = 64
POISON = 255  # the embedding of this token is NaN
TOO_MUCH = 254  # at this token the device runs out of memory
NEVER = 10_000  # no model says this, so answers have the length asked for


class Watch:
    """Counts the tokens of every forward pass, and lets through only as many passes as permitted."""

    def __init__(self, model: Any, permits: int | None, most_seats: int, most_tokens: int) -> None:
        self._most_seats, self._most_tokens = most_seats, most_tokens
        self.refused = 0
        self.passes: list[int] = []
        self.permits = None if permits is None else threading.Semaphore(permits)
        model.get_input_embeddings().register_forward_hook(self._seen)

    def _seen(self, module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if self.permits is not None:
            assert self.permits.acquire(timeout=20), "the engine took more passes than the test expects"
        if args[0].shape[1] > 1 and (args[0] == TOO_MUCH).any():  # a generated one does no harm
            raise torch.OutOfMemoryError("no memory for this")
        if args[0].shape[1] > self._most_tokens:
            torch.empty(1 << 60)  # more than any computer has
        if args[0].shape[1] == 1 and len(args[0]) > self._most_seats:
            self.refused += 1
            torch.empty(1 << 60)
        self.passes.append(args[0].numel())


class Bench:
    """A tiny engine and the means to look at it."""

    def __init__(
        self,
        *,
        tokens: int = 100_000,
        window: int = WINDOW,
        permits: int | None = None,
        most_seats: int = 100,
        most_tokens: int = 100_000,
        **options: Any,
    ):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=260,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=window,
            initializer_range=0.2,
        )
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            model.get_input_embeddings().weight[POISON] = float("nan")
            model.lm_head.weight[POISON] = 0.0
        self.watch = Watch(model, permits, most_seats, most_tokens)
        decoder = Decoder(model)
        kv_format = options.pop("kv_format", "exact")
        size = bytes_per_token(decoder.shape, torch.float32, kv_format)
        card = ModelCard("tiny", "1", window, "cpu", "fp32", kv_format, size)
        tokenizer = PromptTokenizer(
            ByteCodec(), lambda messages: "|".join(m["content"] for m in messages), [NEVER]
        )
        settings = {"prefill_chunk": CHUNK, "max_active": 8} | options
        self.engine = LocalEngine(
            decoder,
            tokenizer,
            card,
            arenas=allocate(decoder, MemoryOptions(kv_format), tokens * size),
            writer=PlainWriter(decoder),
            **settings,
        )

    def permit(self, passes: int) -> None:
        assert self.watch.permits is not None
        self.watch.permits.release(passes)


@pytest.fixture
def bench() -> Iterator[Any]:
    """Makes benches and closes them."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for each in made:
        if each.watch.permits is not None:
            each.permit(1_000_000)
        each.engine.close()


def document(tokens: int, seed: int = 0) -> list[int]:
    return list(map(int, np.random.default_rng(seed).integers(0, TOO_MUCH, tokens)))


def ask(
    prefix: list[int],
    question: str = "What?",
    *,
    max_tokens: int = 4,
    deadline: float | None = None,
    **sampling: Any,
) -> Request:
    return Request(prefix, list(question.encode()), Sampling(max_tokens, **sampling), deadline=deadline)


def finish(events: Iterable[Event]) -> Finished:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last


def text(events: Iterable[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_prompt_is_read_in_chunks_and_answered(bench: Any) -> None:
    engine = bench().engine
    events = list(engine.submit(ask(document(200), max_tokens=5)))
    progress = [event for event in events if isinstance(event, ReadProgress)]
    assert [p.tokens_read for p in progress] == [64, 128, 192, 200, 205]
    assert {p.tokens_total for p in progress} == {205}
    usage = finish(events).usage
    assert (usage.prefix_tokens, usage.suffix_tokens, usage.reused_tokens) == (200, 5, 0)
    assert usage.completion_tokens == sum(e.tokens for e in events if isinstance(e, TextDelta)) == 5
    capacity = engine.capacity()
    assert (capacity.active, capacity.waiting, capacity.prefixes_held) == (0, 0, 1)
    assert capacity.kv_bytes_used == 2 * PAGE * engine.card.kv_bytes_per_token
    assert capacity.read_tokens_per_s
    assert capacity.write_tokens_per_s


def test_a_prompt_without_a_prefix_is_answered(bench: Any) -> None:
    assert finish(bench().engine.submit(ask([], "Hello"))).usage.prefix_tokens == 0


def test_a_second_question_does_not_read_the_document_again(bench: Any) -> None:
    b = bench()
    first = text(b.engine.submit(ask(document(300))))
    b.watch.passes.clear()
    events = list(b.engine.submit(ask(document(300))))
    assert b.watch.passes == [5, 1, 1, 1]
    assert finish(events).usage.reused_tokens == 300
    assert text(events) == first


def test_two_requests_on_one_document_read_it_once_between_them(bench: Any) -> None:
    b = bench(permits=0)
    one, two = (b.engine.submit(ask(document(640), question)) for question in ("First?", "Then?"))
    b.permit(100)
    usages = [finish(answer).usage for answer in (one, two)]
    assert sum(b.watch.passes) == 640 + sum(u.suffix_tokens + u.completion_tokens - 1 for u in usages)


def test_answers_do_not_depend_on_what_else_is_in_work(bench: Any) -> None:
    requests = [ask(document(100, seed), max_tokens=20, temperature=1.0, seed=seed) for seed in range(4)]
    alone = [text(bench().engine.submit(request)) for request in requests]
    engine = bench().engine
    assert [text(answer) for answer in [engine.submit(request) for request in requests]] == alone


def test_the_seed_decides_a_sampled_answer(bench: Any) -> None:
    engine = bench().engine

    def sample(seed: int) -> str:
        return text(engine.submit(ask(document(50), max_tokens=30, temperature=1.0, top_p=0.9, seed=seed)))

    assert sample(1) == sample(1) != sample(2)


def test_a_cancelled_read_leaves_what_was_read_and_the_next_goes_on_from_there(bench: Any) -> None:
    b = bench(permits=1)
    generation = b.engine.submit(ask(document(640)))
    events = iter(generation)
    assert next(events) == ReadProgress(CHUNK, 645, 0)
    generation.cancel()  # the second chunk is already under way
    b.permit(1)
    with pytest.raises(Cancelled):
        list(events)
    b.permit(100)
    answer = list(b.engine.submit(ask(document(640))))
    assert finish(answer).usage.reused_tokens == 2 * CHUNK
    assert sum(b.watch.passes) == 640 + 5 + 3
    assert text(answer) == text(bench().engine.submit(ask(document(640))))


def test_a_caller_who_stops_listening_frees_the_engine(bench: Any) -> None:
    engine = bench(max_active=1).engine
    for _ in engine.submit(ask(document(64), max_tokens=8_000)):
        break
    finish(engine.submit(ask(document(64))))
    assert engine.capacity().active == 0


def test_a_cancelled_request_is_dropped_while_it_waits(bench: Any) -> None:
    b = bench(max_active=1, permits=0)
    first, second = b.engine.submit(ask(document(64))), b.engine.submit(ask(document(64)))
    second.cancel()
    b.permit(100)
    finish(first)
    with pytest.raises(Cancelled):
        list(second)


def test_a_passed_deadline_ends_a_request_before_it_is_read(bench: Any) -> None:
    b = bench()
    with pytest.raises(DeadlineExceeded):
        list(b.engine.submit(ask(document(64), deadline=time.monotonic())))
    assert b.watch.passes == []


def test_a_deadline_ends_a_request_while_it_is_written(bench: Any) -> None:
    engine = bench().engine
    events = iter(engine.submit(ask(document(64), max_tokens=8_000, deadline=time.monotonic() + 0.5)))
    with pytest.raises(DeadlineExceeded):
        list(events)
    finish(engine.submit(ask(document(64))))


def test_a_prompt_beyond_the_window_is_refused(bench: Any) -> None:
    engine = bench().engine
    with pytest.raises(PromptTooLong) as refusal:
        list(engine.submit(ask(document(WINDOW - 8), max_tokens=4)))
    assert (refusal.value.tokens, refusal.value.tokens_fit) == (WINDOW + 1, WINDOW)
    finish(engine.submit(ask(document(WINDOW - 9), max_tokens=4)))


def test_a_prompt_beyond_the_memory_is_refused(bench: Any) -> None:
    engine = bench(tokens=5 * PAGE).engine
    assert engine.capacity().tokens_fit == 3 * PAGE  # the ends of document and answer fill pages in part
    with pytest.raises(PromptTooLong):
        list(engine.submit(ask(document(5 * PAGE))))
    finish(engine.submit(ask(document(3 * PAGE - 9))))


def test_a_question_beyond_the_exact_pages_is_told_how_long_it_may_be(bench: Any) -> None:
    engine = bench(kv_format="fp8", tokens=6_000, prefill_chunk=PAGE).engine
    with pytest.raises(PromptTooLong) as refusal:
        list(engine.submit(ask(document(1_000), max_tokens=3_000)))
    fit = refusal.value.tokens_fit
    assert "bits" not in str(refusal.value)  # fewer would not help
    assert fit < engine.capacity().tokens_fit
    finish(engine.submit(ask(document(1_000), max_tokens=fit - 1_005)))
    with pytest.raises(PromptTooLong):
        list(engine.submit(ask(document(1_000), max_tokens=fit - 1_004)))


def test_the_prefix_unused_for_longest_makes_room(bench: Any) -> None:
    engine = bench(tokens=9 * PAGE).engine  # four for each document and one for an answer
    for seed in (1, 2, 1, 3):  # 1 is used again, so 2 goes when 3 comes
        finish(engine.submit(ask(document(400, seed))))
    reused = [finish(engine.submit(ask(document(400, seed)))).usage.reused_tokens for seed in (1, 2)]
    assert reused == [400, 0]


def test_a_request_that_does_not_fit_waits_until_memory_is_free(bench: Any) -> None:
    b = bench(tokens=10 * PAGE, permits=1)
    big, waiting, small = (b.engine.submit(ask(document(n, seed=n))) for n in (600, 800, 100))
    events = iter(big)
    next(events)
    b.permit(12)  # the small one passes; were it behind the waiting one, more passes would be needed
    finish(small)
    assert b.engine.capacity().waiting == 1
    b.permit(100)
    finish(events)
    finish(waiting)


def test_a_request_cannot_be_overtaken_for_ever(bench: Any) -> None:
    engine = bench(tokens=10 * PAGE).engine
    held = iter(engine.submit(ask(document(200), max_tokens=700)))
    next(held)
    waiting = engine.submit(ask(document(800, seed=1)))
    later = [engine.submit(ask([], "Hi", max_tokens=1)) for _ in range(40)]
    order: list[str] = []

    def collect(name: str, answer: Iterable[Event]) -> None:
        finish(answer)
        order.append(name)

    threads = [threading.Thread(target=collect, args=("waiting", waiting))]
    threads += [threading.Thread(target=collect, args=("later", answer)) for answer in later]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order.index("waiting") < 39


def test_a_short_request_is_answered_beside_a_long_read(bench: Any) -> None:
    b = bench(permits=0)
    long = b.engine.submit(ask(document(100 * CHUNK)))
    short = b.engine.submit(ask(document(2 * CHUNK, seed=1)))
    b.permit(20)
    finish(short)
    assert sum(b.watch.passes) < 50 * CHUNK
    b.permit(200)
    finish(long)


def test_running_out_of_memory_fails_one_request_and_the_engine_lives(bench: Any) -> None:
    engine = bench().engine
    with pytest.raises(OutOfMemory):
        list(engine.submit(ask([*document(60), TOO_MUCH])))
    finish(engine.submit(ask(document(64))))
    assert engine.capacity().active == 0


def test_what_memory_is_missing_for_is_read_in_smaller_chunks(bench: Any) -> None:
    b = bench(prefill_chunk=2_048, most_tokens=600)
    assert finish(b.engine.submit(ask(document(3_000)))).usage.prefix_tokens == 3_000
    assert max(b.watch.passes) == 512


def test_answers_that_cannot_be_written_together_are_written_one_by_one(bench: Any) -> None:
    b = bench(most_seats=1, permits=2)
    answers = [b.engine.submit(ask(document(60, seed=n), max_tokens=50)) for n in range(2)]
    b.permit(1_000)
    assert [finish(answer).usage.completion_tokens for answer in answers] == [50, 50]
    assert b.watch.refused


def test_an_answer_that_cannot_be_written_at_all_fails_alone(bench: Any) -> None:
    engine = bench(most_seats=0).engine
    with pytest.raises(OutOfMemory):
        list(engine.submit(ask(document(60))))
    with pytest.raises(OutOfMemory):
        list(engine.submit(ask(document(60))))
    assert not engine.failed
    assert engine.capacity().active == 0


def test_running_out_of_memory_costs_no_document_that_was_read(bench: Any) -> None:
    """Keys and values are allocated once: to drop them would give the device nothing back."""
    engine = bench().engine
    finish(engine.submit(ask(document(300))))
    with pytest.raises(OutOfMemory):
        list(engine.submit(ask([*document(60), TOO_MUCH])))
    assert finish(engine.submit(ask(document(300)))).usage.reused_tokens == 300


def test_chunks_of_packed_pages_are_whole_pages(bench: Any) -> None:
    with pytest.raises(ValueError, match="whole number"):
        bench(kv_format="fp8", prefill_chunk=PAGE + 1)


@pytest.mark.parametrize("pages", [5, 9])
def test_a_chunk_that_is_cut_beside_an_answer_stays_whole_pages(bench: Any, pages: int) -> None:
    b = bench(kv_format="fp8", prefill_chunk=pages * PAGE, pause_s=0)
    writing = iter(b.engine.submit(ask([], max_tokens=700)))
    next(event for event in writing if isinstance(event, TextDelta))
    finish(b.engine.submit(ask(document(3_000))))
    assert 1 < max(b.watch.passes) < pages * PAGE


def test_not_finite_logits_fail_one_request_and_leave_no_trace(bench: Any) -> None:
    engine = bench().engine
    poisoned = [*document(100), POISON]
    for _ in range(2):
        with pytest.raises(NotFinite):
            list(engine.submit(ask(poisoned)))
    clean = text(engine.submit(ask(document(100))))
    assert clean == text(bench().engine.submit(ask(document(100))))


def test_a_mask_that_fails_fails_its_request_alone(bench: Any) -> None:
    class Broken:
        def allowed(self, generated: object) -> None:
            raise ZeroDivisionError("broken mask")

    engine = bench().engine
    with pytest.raises(EngineError) as failure:
        list(engine.submit(Request([], [1], mask=Broken())))
    assert isinstance(failure.value.__cause__, ZeroDivisionError)
    finish(engine.submit(ask(document(10))))


def test_a_token_outside_the_vocabulary_is_refused_at_once(bench: Any) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        bench().engine.submit(Request([1, 260], [1]))


def test_closing_stops_waiting_and_running_requests(bench: Any) -> None:
    engine = bench(max_active=1, prefill_chunk=1).engine
    running, waiting = engine.submit(ask(document(8_000))), engine.submit(ask(document(10)))
    events = iter(running)
    next(events)
    engine.close()
    later = engine.submit(ask(document(10)))
    for stopped in (events, waiting, later):
        with pytest.raises(EngineStopped):
            list(stopped)
    engine.close()


def test_an_answer_can_be_iterated_once_only(bench: Any) -> None:
    answer = bench().engine.submit(ask([]))
    finish(answer)
    with pytest.raises(RuntimeError, match="once"):
        iter(answer)
