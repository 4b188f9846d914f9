"""Work shared with a forked process: it makes batches of items while this one makes others."""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Generic, NoReturn, TypeVar

#: The items are handed over in so many batches, each of at most so many: every message costs time.
_BATCHES, _LARGEST = 32, 16
#: Batches that the other process is asked for ahead, and that wait here for their turn.
_AHEAD = 4
_NUMBER = struct.Struct("Q")

T = TypeVar("T")
Make = Callable[[int], T]


def made(make: Make[T], total: int, *, there: Callable[[], Make[T]] | None = None) -> Iterator[T]:
    """`make(0)` to `make(total - 1)` in order, each made here or in the other process.

    The two share the position in every file that is open, so what reads a file must be made anew by `there`.
    Only for a process without threads. If the other one is ended by a signal, so is this one; if it fails
    otherwise, this raises MemoryError.
    """
    size = min(_LARGEST, max(1, total // _BATCHES))

    def batch(make: Make[T], first: int) -> list[T]:
        return [make(index) for index in range(first, min(first + size, total))]

    todo = iter(range(0, total, size))
    waiting: dict[int, list[T]] = {}
    other = _Other(there or (lambda: make), batch)
    try:
        for first in range(0, total, size):
            while first not in waiting:
                for number in islice(todo, _AHEAD - other.asked):
                    other.ask(number)
                wait = len(waiting) >= _AHEAD or other.has_answered()
                own = None if wait else next(todo, None)
                if own is None:
                    number, items = other.answer()
                    waiting[number] = items
                else:
                    waiting[own] = batch(make, own)
            yield from waiting.pop(first)
    finally:
        other.end()


class _Other(Generic[T]):
    """The forked process. Batches are known by their first index."""

    def __init__(self, there: Callable[[], Make[T]], batch: Callable[[Make[T], int], list[T]]) -> None:
        #: Batches it was asked for that are not here yet.
        self.asked = 0
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._requests)
            os.close(self._answers)
            _serve(there, batch, requests, answers)
        os.close(requests)
        os.close(answers)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)

    def ask(self, first: int) -> None:
        with suppress(BrokenPipeError):  # it ended, as its answer will tell
            os.write(self._requests, _NUMBER.pack(first))
        self.asked += 1

    def has_answered(self) -> bool:
        return bool(self._poll.poll(0))

    def answer(self) -> tuple[int, list[T]]:
        """A batch it was asked for; waits for it."""
        try:
            answer: tuple[int, list[T]] = pickle.loads(_read(self._answers, _read_number(self._answers)))
        except EOFError as exc:
            _, status = os.waitpid(self._pid, 0)
            self._pid = 0
            if os.WIFSIGNALED(status):
                os.kill(os.getpid(), os.WTERMSIG(status))
            raise MemoryError from exc
        self.asked -= 1
        return answer

    def end(self) -> None:
        os.close(self._requests)
        os.close(self._answers)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _serve(
    there: Callable[[], Make[T]], batch: Callable[[Make[T], int], list[T]], requests: int, answers: int
) -> NoReturn:
    """What the other process does."""
    try:
        make = there()
        with os.fdopen(answers, "wb") as out:
            while True:
                first = _read_number(requests)
                answer = pickle.dumps((first, batch(make, first)), pickle.HIGHEST_PROTOCOL)
                out.write(_NUMBER.pack(len(answer)) + answer)
                out.flush()
    except BaseException:  # nothing may be handled, or written, twice
        os._exit(1)


def _read_number(pipe: int) -> int:
    return int(_NUMBER.unpack(_read(pipe, _NUMBER.size))[0])


def _read(pipe: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = os.read(pipe, size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
