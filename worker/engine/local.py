"""The engine that runs a model in this process.

One thread alone touches the model; callers hand it requests and wait for events. Its beat, one turn:

    drop what was cancelled or is late -> admit what fits -> read one chunk -> write a token of each

Beside a read, tokens are written for as long as the chunk took, and chunks are shorter: so a short request is
answered beside a long read, and cancelling takes effect within one chunk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch

from worker.engine.archive import Archive
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
from worker.engine.memory import fits_in
from worker.engine.page import PAGE
from worker.engine.pool import Arenas, PagePool
from worker.engine.snapshots import SnapshotStore
from worker.engine.task import Task
from worker.engine.tokenizer import PromptTokenizer
from worker.engine.types import Capacity, ModelCard, Request
from worker.engine.writer import Writer

logger = logging.getLogger(__name__)

# A request that waits for memory lets this many later ones pass, and then no more.
_MAX_OVERTAKEN = 16
_SMALLEST_CHUNK = 512


class LocalEngine:
    """Tokens in, tokens out, on one device."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PromptTokenizer,
        card: ModelCard,
        *,
        arenas: Arenas,
        writer: Writer,
        prefill_chunk: int,
        max_active: int,
        snapshots: SnapshotStore | None = None,
        pause_s: float = 0.5,
    ) -> None:
        """Start the engine's thread. `prefill_chunk`: tokens read at once; whole pages if any are packed.

        While answers are written, chunks are cut so that none of them waits much longer than `pause_s` for a
        token. Raises `ValueError`.
        """
        if arenas.packed is not None and prefill_chunk % PAGE:
            raise ValueError(f"Packed pages hold {PAGE} tokens; {prefill_chunk} are no whole number of them.")
        self.card = card
        self.tokenizer = tokenizer
        self._decoder = decoder
        self._writer = writer
        self._tokens_fit_in = fits_in(decoder, arenas)
        self.pool = PagePool(arenas)
        self._snapshots = snapshots
        self.archive = (
            None
            if snapshots is None
            else Archive(
                snapshots,
                self.pool,
                arenas,
                extent_pages=max(1, prefill_chunk // PAGE),  # so that a read goes on as it would have
                pinned=decoder.device.type == "cuda",
            )
        )
        self._prefill_chunk = prefill_chunk
        self._max_active = max_active
        self._pause_s = pause_s
        self._turns = 0
        self._read_speed = _Speed()
        self._write_speed = _Speed()
        self._waiting: list[Task] = []
        self._active: list[Task] = []
        self._forgotten: set[str] = set()
        self._closing = False
        self._changed = threading.Condition()  # guards the four above
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> LocalGeneration:
        task = Task(request, self._decoder, self.pool, self.archive, self.tokenizer)
        tokens = len(task.prefix_ids) + task.tail_tokens
        fits = tokens <= self.card.window and self.pool.fits(len(task.prefix_ids), task.tail_tokens)
        with self._changed:
            if self._closing:
                task.generation.put(EngineStopped())
            elif not fits:
                task.generation.put(self._refusal(tokens, len(task.prefix_ids)))
            else:
                self._waiting.append(task)
                self._changed.notify()
        return task.generation

    def capacity(self) -> Capacity:
        with self._changed:
            active, waiting = len(self._active), len(self._waiting)
        return Capacity(
            tokens_fit=self._tokens_fit,
            tokens_fit_in=self._tokens_fit_in,
            kv_bytes_total=self.pool.bytes_total,
            kv_bytes_used=self.pool.bytes_used,
            prefixes_held=len(self.pool),
            active=active,
            waiting=waiting,
            read_tokens_per_s=self._read_speed.tokens_per_s,
            write_tokens_per_s=self._write_speed.tokens_per_s,
        )

    def owners(self) -> set[str]:
        return self.pool.owners() | (self._snapshots.owners() if self._snapshots else set())

    def forget(self, owners: Collection[str]) -> None:
        with self._changed:
            self._forgotten.update(owners)
            self._changed.notify()
        if self._snapshots is not None:
            self._snapshots.forget(owners)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def _tokens_fit(self) -> int:
        return min(self.card.window, self.pool.tokens_fit)

    def _refusal(self, tokens: int, prefix_tokens: int) -> PromptTooLong:
        """Of a prompt with its answer; where pages are packed, few are left for what follows the prefix."""
        fit = prefix_tokens + self.pool.tail_fits(prefix_tokens)
        if fit < min(tokens, self._tokens_fit):
            return PromptTooLong(tokens, fit)
        return PromptTooLong(tokens, self._tokens_fit, self._tokens_fit_in)

    @property
    def failed(self) -> bool:
        return self._failed

    def _run(self) -> None:
        try:
            if self._decoder.device.type == "cuda":
                torch.cuda.set_device(self._decoder.device)  # of this thread: streams and Triton follow it
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
            if self.archive is not None:
                self.archive.close()  # takes seconds, and may fail with the device: nobody waits for it

    def _has_work(self) -> bool:
        """Wait for a request; False when the engine is to stop."""
        if not self._active:
            self.pool.check_integrity()
        while self.archive is not None and not self._wanted() and self.archive.work(patient=True):
            pass
        with self._changed:
            self._changed.wait_for(self._wanted)
            return not self._closing

    def _wanted(self) -> bool:
        return bool(self._closing or self._waiting or self._active or self._forgotten)

    def _turn(self) -> None:
        self._turns += 1
        self._drop_unwanted()
        self._drop_forgotten()
        self._admit()
        read_s = 0.0
        if reading := [task for task in self._active if task.tokens_left]:
            begin = time.monotonic()
            self._guard(self._read, self._next_reader(reading))
            for task in self._active:
                task.report()
            read_s = time.monotonic() - begin
        if self.archive is not None:
            self.archive.work()
        self._write_for(read_s)

    def _write_for(self, seconds: float) -> None:
        """Write a token of each answer, and more until `seconds` have passed."""
        begin = time.monotonic()
        self._hand_out()  # an answer may end with its first token, which reading gives
        while writing := self._writing():
            self._write(writing)
            self._hand_out()
            if time.monotonic() - begin >= seconds:
                return

    def _hand_out(self) -> None:
        """Finished answers leave."""
        for task in list(self._active):
            if task.result:
                self._remove(task)
                task.generation.put(task.result)

    def _writing(self) -> list[Task]:
        """Those about one document side by side, so that it is streamed once for all of them."""
        return sorted((task for task in self._active if not task.tokens_left), key=Task.document)

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

    def _drop_forgotten(self) -> None:
        with self._changed:
            forgotten, self._forgotten = self._forgotten, set()
        self.pool.forget(forgotten)

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
        if lease := self.pool.acquire(task.prefix_ids, task.keys, task.tail_tokens, owners=task.owners):
            task.lease = lease
            with self._changed:
                self._waiting.remove(task)
                self._active.append(task)
            task.admit()

    def _read(self, task: Task) -> None:
        """Read a chunk; where the memory for it is missing, a smaller one with the next turn."""
        chunk, begin, cause = min(self._chunk(), task.most_at_once), time.monotonic(), None
        try:
            if tokens := task.read(chunk):
                self._read_speed.add(tokens, time.monotonic() - begin)
        except RuntimeError as exc:
            if not _is_out_of_memory(exc) or chunk <= _SMALLEST_CHUNK:
                raise
            cause = exc.with_traceback(None)
        if cause is not None:  # only now, when nothing holds the frames and tensors of what failed
            torch.cuda.empty_cache()
            task.most_at_once = max(_SMALLEST_CHUNK, chunk // 2 // PAGE * PAGE)
            logger.warning("%d tokens are too many to read at once: %s", chunk, cause)

    def _chunk(self) -> int:
        """A whole chunk, or what takes about `pause_s` where answers wait; little, until that is known."""
        chunk, speed = self._prefill_chunk, self._read_speed.tokens_per_s or 0.0
        while self._writing() and chunk > max(_SMALLEST_CHUNK, speed * self._pause_s):
            chunk = chunk // 2 // PAGE * PAGE
        return chunk

    def _write(self, tasks: list[Task]) -> None:
        begin, cause = time.monotonic(), None
        try:
            written = self._writer.write([task.seat() for task in tasks])
        except RuntimeError as exc:
            if not _is_out_of_memory(exc):
                raise
            cause = exc.with_traceback(None)
        if cause is not None:  # only now, when nothing holds the frames and tensors of what failed
            torch.cuda.empty_cache()
            if len(tasks) == 1:
                self._fail(tasks[0], OutOfMemory(), cause)
            else:
                for task in tasks:
                    self._write([task])
            return
        for row, task in enumerate(tasks):
            self._guard(partial(Task.write, written=written, row=row), task)
        self._write_speed.add(len(tasks), time.monotonic() - begin)

    def _guard(self, step: Callable[[Task], None], task: Task) -> None:
        """Take a step; whatever it raises ends this request alone."""
        try:
            step(task)
        except EngineError as exc:
            self._fail(task, exc)
        except torch.AcceleratorError:
            raise  # the device takes no more work from this process
        except Exception as exc:
            if _is_out_of_memory(exc):
                logger.warning("A request failed: %s", exc)
                self._fail(task, OutOfMemory(), exc)
                torch.cuda.empty_cache()
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
                self.pool.release(task.lease)


def _is_out_of_memory(exc: Exception) -> bool:
    """On the CPU torch raises a plain RuntimeError."""
    return isinstance(exc, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(exc)


class _Speed:
    """Tokens a second of late; a sample counts by its seconds."""

    _KEPT = 0.8  # of what came before, at each sample

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        return self._tokens / self._seconds if self._seconds else None

    def add(self, tokens: int, seconds: float) -> None:
        self._tokens = self._KEPT * self._tokens + tokens
        self._seconds = self._KEPT * self._seconds + max(seconds, 1e-9)
