"""Work shared with a forked process: every second item is made there."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import TypeVar

#: Bytes handed over at once: every waking of the other process costs time.
_BUFFER = 1 << 16

T = TypeVar("T")


def made(
    make: Callable[[int], T], total: int, *, there: Callable[[], Callable[[int], T]] | None = None
) -> Iterator[T]:
    """`make(0)` to `make(total - 1)` in order, each made here or in the other process.

    The two share the position in every file that is open, so what reads a file must be made anew by `there`.
    Only for a process without threads. If the other one is ended by a signal, so is this one; if it fails
    otherwise, this raises MemoryError.
    """
    receiving, sending = os.pipe()
    other = os.fork()
    if other == 0:
        os.close(receiving)
        _send(there or (lambda: make), range(1, total, 2), sending)
    os.close(sending)
    ended = False
    try:
        with os.fdopen(receiving, "rb", _BUFFER) as items:
            for index in range(total):
                yield pickle.load(items) if index % 2 else make(index)
    except EOFError as exc:
        _, status = os.waitpid(other, 0)
        ended = True
        if os.WIFSIGNALED(status):
            os.kill(os.getpid(), os.WTERMSIG(status))
        raise MemoryError from exc
    finally:
        if not ended:
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)


def _send(there: Callable[[], Callable[[int], T]], indices: range, sending: int) -> None:
    """What the other process does."""
    try:
        with os.fdopen(sending, "wb", _BUFFER) as items:
            make = there()
            for index in indices:
                pickle.dump(make(index), items, protocol=pickle.HIGHEST_PROTOCOL)
        os._exit(0)
    except BaseException:  # nothing may be handled, or written, twice
        os._exit(1)
