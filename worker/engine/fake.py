"""An engine without a model, for tests and for trying the plumbing: deterministic and scripted.

It keeps the real engine's promises (events and their order, reuse of prefixes, cancellation, deadlines,
refusals, masks) and imports nothing heavy. One UTF-8 byte is one token.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray

from worker.engine.detokenizer import Detokenizer
from worker.engine.errors import Cancelled, DeadlineExceeded, EngineStopped, PromptTooLong
from worker.engine.tokenizer import PromptTokenizer
from worker.engine.types import (
    Capacity,
    Event,
    Finished,
    FinishReason,
    ModelCard,
    ReadProgress,
    Request,
    Usage,
)

Answers = Callable[[str], str] | Mapping[str, str]

_SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_USER, _END = 256 + _SPECIAL.index("<|user|>"), 256 + _SPECIAL.index("<|end|>")
_KV_BYTES_PER_TOKEN = 1_024
_ECHOED_CHARACTERS = 80
# Where a mask rules out the scripted byte, the bytes that bring JSON to its end soonest come first.
_PREFERRED = (_END, *b'"}],:{[0')


class ByteCodec:
    """UTF-8 bytes as tokens, and four special tokens that only a template can write."""

    fingerprint = "bytes/1"

    def encode(self, text: str) -> tuple[list[int], NDArray[np.int32]]:
        sizes = [len(character.encode()) for character in text]
        starts = np.repeat(np.arange(len(text), dtype=np.int32), sizes)
        return list(text.encode()), np.stack([starts, starts + 1], axis=1).astype(np.int32)

    def encode_template(self, text: str) -> list[int]:
        for number, token in enumerate(_SPECIAL):
            before, found, after = text.partition(token)
            if found:
                return [*self.encode_template(before), 256 + number, *self.encode_template(after)]
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def grammar_vocabulary(self, stop_ids: Sequence[int]) -> LLTokenizer:
        return LLTokenizer(_GrammarBytes(stop_ids))  # type: ignore[arg-type]


class _GrammarBytes:
    """What the grammar library asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, stop_ids: Sequence[int]) -> None:
        self.eos_token_id = stop_ids[0]
        self.tokens = [bytes([byte]) for byte in range(256)] + [token.encode() for token in _SPECIAL]
        self.special_token_ids = [256 + number for number in range(len(_SPECIAL))]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def fake_tokenizer(stop_ids: Sequence[int] = (_END,)) -> PromptTokenizer:
    """A reversible tokenizer: ids below 256 are bytes."""

    def render(messages: list[dict[str, str]]) -> str:
        return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages) + "<|assistant|>"

    return PromptTokenizer(ByteCodec(), render, stop_ids=list(stop_ids))


class FakeEngine:
    """Answers from a script; everything happens in the thread that iterates the answer."""

    def __init__(
        self,
        answers: Answers | None = None,
        *,
        window: int = 100_000,
        chunk: int = 512,
        hold_reading: threading.Event | None = None,
    ) -> None:
        """Script an engine.

        `answers` is called with the decoded prompt (and may raise an `EngineError`), or maps a piece of the
        prompt to the answer, the first match winning; without a match the document's beginning is echoed.
        With `hold_reading`, reading stops after the first chunk of a prefix until the event is set.
        """
        self.tokenizer = fake_tokenizer()
        self.card = ModelCard("fake", "1", window, "cpu", "fp32", "exact", _KV_BYTES_PER_TOKEN)
        self._answers = answers
        self._chunk = chunk
        self._hold_reading = hold_reading
        self._closed = threading.Event()
        self._failed = False
        self._lock = threading.Lock()
        self._read: dict[bytes, int] = {}  # prefix key -> tokens read of it
        self._owners: dict[bytes, frozenset[str]] = {}  # prefix key -> who is named by its last request
        self._states: dict[_FakeGeneration, str] = {}

    def submit(self, request: Request) -> _FakeGeneration:
        generation = _FakeGeneration(self, request)
        self._set_state(generation, "waiting")
        return generation

    def capacity(self) -> Capacity:
        with self._lock:
            states = list(self._states.values())
            return Capacity(
                tokens_fit=self.card.window,
                tokens_fit_in={"exact": self.card.window},
                kv_bytes_total=self.card.window * _KV_BYTES_PER_TOKEN,
                kv_bytes_used=sum(self._read.values()) * _KV_BYTES_PER_TOKEN,
                prefixes_held=len(self._read),
                active=states.count("active"),
                waiting=states.count("waiting"),
                read_tokens_per_s=None,
                write_tokens_per_s=None,
            )

    def owners(self) -> set[str]:
        with self._lock:
            return {owner for owners in self._owners.values() for owner in owners}

    def forget(self, owners: Collection[str]) -> None:
        with self._lock:
            for key in [key for key, named in self._owners.items() if not named.isdisjoint(owners)]:
                del self._owners[key]
                self._read.pop(key, None)

    @property
    def failed(self) -> bool:
        return self._failed

    def fail(self) -> None:
        """End as an engine does whose device broke."""
        self._failed = True
        self._closed.set()

    def close(self) -> None:
        self._closed.set()

    def _set_state(self, generation: _FakeGeneration, state: str | None) -> None:
        with self._lock:
            self._states.pop(generation, None)
            if state:
                self._states[generation] = state

    def _answer(self, prompt: str, document: str) -> str:
        if callable(self._answers):
            return self._answers(prompt)
        for piece, answer in (self._answers or {}).items():
            if piece in prompt:
                return answer
        return document[:_ECHOED_CHARACTERS]


class _FakeGeneration:
    def __init__(self, engine: FakeEngine, request: Request) -> None:
        self._engine = engine
        self._request = request
        self._cancelled = threading.Event()
        self._submitted = time.monotonic()

    def cancel(self) -> None:
        self._cancelled.set()

    def __iter__(self) -> Iterator[Event]:
        engine, request = self._engine, self._request
        admitted = time.monotonic()
        try:
            self._refuse_if_too_long()
            engine._set_state(self, "active")
            reused = yield from self._read()
            read = time.monotonic()
            reason, completion_tokens = yield from self._write()
            yield Finished(
                reason,
                Usage(
                    prefix_tokens=len(request.prefix),
                    suffix_tokens=len(request.suffix),
                    reused_tokens=reused,
                    completion_tokens=completion_tokens,
                    queue_s=admitted - self._submitted,
                    read_s=read - admitted,
                    write_s=time.monotonic() - read,
                    first_token_s=read - self._submitted,
                ),
            )
        finally:
            engine._set_state(self, None)

    def _refuse_if_too_long(self) -> None:
        request, window = self._request, self._engine.card.window
        tokens = len(request.prefix) + len(request.suffix) + request.sampling.max_tokens
        if tokens > window:
            raise PromptTooLong(tokens, window)

    def _read(self) -> Generator[Event, None, int]:
        engine, request = self._engine, self._request
        prefix, total = len(request.prefix), len(request.prefix) + len(request.suffix)
        key = hashlib.sha256(np.asarray(request.prefix, np.int32).tobytes()).digest()
        with engine._lock:
            engine._owners[key] = request.owners
        reused = done = engine._read.get(key, 0)
        while done < prefix:
            self._check()
            done = min(done + engine._chunk, prefix)
            with engine._lock:
                engine._read[key] = max(done, engine._read.get(key, 0))
            yield ReadProgress(done, total, reused)
            while engine._hold_reading and not engine._hold_reading.wait(0.005):
                self._check()  # a held read can still be cancelled
        self._check()
        yield ReadProgress(total, total, reused)
        return reused

    def _write(self) -> Generator[Event, None, tuple[FinishReason, int]]:
        engine, request = self._engine, self._request
        decode = engine.tokenizer.decode
        prefix = list(request.prefix)
        document = prefix[prefix.index(_USER) + 1 :] if _USER in prefix else prefix
        script = list(engine._answer(decode([*prefix, *request.suffix]), decode(document)).encode())
        detokenizer = Detokenizer(decode)
        generated: list[int] = []
        reason: FinishReason = "length"
        while len(generated) < request.sampling.max_tokens:
            self._check()
            token = self._next_token(generated, script)
            if token is None:
                reason = "stop"
                break
            generated.append(token)
            if delta := detokenizer.push(token):
                yield delta
        if delta := detokenizer.flush():
            yield delta
        return reason, len(generated)

    def _next_token(self, generated: list[int], script: list[int]) -> int | None:
        """The scripted byte where the mask allows it, else the allowed one that ends soonest; None stops."""
        token = script[len(generated)] if len(generated) < len(script) else _END
        mask = self._request.mask
        if mask is not None and (ids := mask.allowed(generated)) is not None:
            allowed = ids.tolist()
            if not allowed:
                return None
            if token not in allowed:
                token = next((t for t in _PREFERRED if t in allowed), allowed[0])
        return None if token == _END else token

    def _check(self) -> None:
        deadline = self._request.deadline
        if self._cancelled.is_set():
            raise Cancelled
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceeded
        if self._engine._closed.is_set():
            raise EngineStopped
