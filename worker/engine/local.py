"""The engine that runs a model in this process.

One thread alone touches the model; callers hand it requests and wait for events. Its beat, one turn:

    drop what was cancelled or is late -> admit what fits -> read one chunk -> write one token of each

so a short request is answered beside a long read, and cancelling takes effect within one chunk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import torch

from worker.engine.decoder import Decoder
from worker.engine.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    EngineStopped,
    OutOfMemory,
    PromptTooLong,
)
from worker.engine.generation import LocalGeneration
from worker.engine.pool import KVPool
from worker.engine.task import Task
from worker.engine.tokenizer import PromptTokenizer
from worker.engine.types import Capacity, ModelCard, Request

logger = logging.getLogger(__name__)

# A request that waits for memory lets this many later ones pass, and then no more.
_MAX_OVERTAKEN = 16


class LocalEngine:
    """Tokens in, tokens out, on one device."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PromptTokenizer,
        card: ModelCard,
        *,
        kv_budget_bytes: int,
        prefill_chunk: int,
        max_active: int,
    ) -> None:
        """Start the engine's thread. `prefill_chunk`: tokens read at once."""
        self.card = card
        self.tokenizer = tokenizer
        self._decoder = decoder
        self._pool = KVPool(kv_budget_bytes // card.kv_bytes_per_token, decoder.new_buffer)
        self._prefill_chunk = prefill_chunk
        self._max_active = max_active
        self._turns = 0
        self._read_speed = _Speed()
        self._write_speed = _Speed()
        self._waiting: list[Task] = []
        self._active: list[Task] = []
        self._closing = False
        self._failed = False
        self._changed = threading.Condition()  # guards the four above
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> LocalGeneration:
        task = Task(request, self._decoder, self.tokenizer)
        tokens, tokens_fit = len(task.prefix_ids) + task.tail_tokens, self._tokens_fit
        with self._changed:
            if self._closing:
                task.generation.put(EngineStopped())
            elif tokens > tokens_fit:
                task.generation.put(PromptTooLong(tokens, tokens_fit))
            else:
                self._waiting.append(task)
                self._changed.notify()
        return task.generation

    def capacity(self) -> Capacity:
        with self._changed:
            active, waiting = len(self._active), len(self._waiting)
        return Capacity(
            tokens_fit=self._tokens_fit,
            kv_bytes_total=self._pool.tokens * self.card.kv_bytes_per_token,
            kv_bytes_used=self._pool.tokens_used * self.card.kv_bytes_per_token,
            prefixes_held=len(self._pool),
            active=active,
            waiting=waiting,
            read_tokens_per_s=self._read_speed.tokens_per_s,
            write_tokens_per_s=self._write_speed.tokens_per_s,
        )

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def _tokens_fit(self) -> int:
        return min(self.card.window, self._pool.tokens)

    @property
    def failed(self) -> bool:
        return self._failed

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._has_work():
                    self._turn()
        except Exception:
            logger.critical("The engine has ended.", exc_info=True)
            self._failed = True
        finally:
            with self._changed:
                self._closing = True
                for task in self._waiting + self._active:
                    task.generation.put(EngineStopped())

    def _has_work(self) -> bool:
        """Wait for a request; False when the engine is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self._active)
            return not self._closing

    def _turn(self) -> None:
        self._turns += 1
        self._drop_unwanted()
        self._admit()
        if reading := [task for task in self._active if task.tokens_left]:
            self._guard(self._read, self._next_reader(reading))
            for task in self._active:
                task.report()
        for task in [task for task in self._active if not task.tokens_left and not task.result]:
            self._guard(self._write, task)
        for task in list(self._active):
            if task.result:
                self._remove(task)
                task.generation.put(task.result)

    def _next_reader(self, reading: Sequence[Task]) -> Task:
        """The oldest and the shortest in turn: neither can hold the other up by more than half its speed."""
        return reading[0] if self._turns % 2 else min(reading, key=lambda task: task.tokens_left)

    def _drop_unwanted(self) -> None:
        now = time.monotonic()
        for task in self._waiting + self._active:
            if task.generation.cancelled:
                self._fail(task, Cancelled())
            elif task.deadline is not None and now >= task.deadline:
                self._fail(task, DeadlineExceeded())

    def _admit(self) -> None:
        passed: list[Task] = []
        for task in list(self._waiting):
            full = len(self._active) >= self._max_active
            if full or any(waiting.overtaken >= _MAX_OVERTAKEN for waiting in passed):
                return
            self._guard(self._start, task)
            if task in self._waiting:
                passed.append(task)
                continue
            for waiting in passed:
                waiting.overtaken += 1

    def _start(self, task: Task) -> None:
        """Admit `task` if its memory is free."""
        if lease := self._pool.acquire(task.prefix_ids, task.tail_tokens):
            task.admit(lease)
            with self._changed:
                self._waiting.remove(task)
                self._active.append(task)

    def _read(self, task: Task) -> None:
        begin = time.monotonic()
        tokens = task.read(self._prefill_chunk)
        self._read_speed.add(tokens, time.monotonic() - begin)

    def _write(self, task: Task) -> None:
        begin = time.monotonic()
        task.write()
        self._write_speed.add(1, time.monotonic() - begin)

    def _guard(self, step: Callable[[Task], None], task: Task) -> None:
        """Take a step; whatever it raises ends this request alone."""
        try:
            step(task)
        except EngineError as exc:
            self._fail(task, exc)
        except torch.OutOfMemoryError as exc:
            self._fail(task, OutOfMemory(), exc)
            self._free_memory()
        except torch.AcceleratorError:
            raise  # the device takes no more work from this process
        except Exception as exc:
            if "can't allocate memory" in str(exc):  # torch raises a plain RuntimeError on the CPU
                self._fail(task, OutOfMemory(), exc)
            else:
                logger.exception("A request failed in an unforeseen way.")
                self._fail(task, EngineError(), exc)

    def _fail(self, task: Task, error: EngineError, cause: BaseException | None = None) -> None:
        # Tracebacks keep the tensors of their frames alive for as long as the caller keeps the error.
        error.__cause__ = cause and cause.with_traceback(None)
        self._remove(task)
        task.generation.put(error.with_traceback(None))

    def _remove(self, task: Task) -> None:
        with self._changed:
            if task in self._waiting:
                self._waiting.remove(task)
            else:
                self._active.remove(task)
                self._pool.release(task.lease)

    def _free_memory(self) -> None:
        self._pool.drop_idle()
        torch.cuda.empty_cache()


class _Speed:
    """A moving average of tokens a second."""

    _NEWEST = 0.2  # its weight

    def __init__(self) -> None:
        self.tokens_per_s: float | None = None

    def add(self, tokens: int, seconds: float) -> None:
        sample = tokens / max(seconds, 1e-9)
        old = self.tokens_per_s
        self.tokens_per_s = sample if old is None else old + self._NEWEST * (sample - old)
