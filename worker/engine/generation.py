"""The caller's end of an answer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from worker.engine.errors import EngineError
from worker.engine.types import Event, Finished


class LocalGeneration:
    """Events that the engine's thread puts and the caller's thread takes."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event | EngineError] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._iterated = False

    def __iter__(self) -> Iterator[Event]:
        if self._iterated:
            raise RuntimeError("An answer can be iterated once only.")
        self._iterated = True
        return self._take()

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def put(self, event: Event | EngineError) -> None:
        self._events.put(event)

    def _take(self) -> Iterator[Event]:
        try:
            while True:
                event = self._events.get()
                if isinstance(event, EngineError):
                    raise event
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self.cancel()  # a caller who stops listening frees what the request holds
