"""A watch over jobs: waits for the next version by cheap reads, which grow rarer while nothing happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.status import FINAL, Status

#: Seconds between two reads: the first, the longest, and how fast one becomes the other.
FIRST_S, LONGEST_S, GROWTH = 0.05, 0.5, 1.5


@dataclass(frozen=True, slots=True)
class Sight:
    """What a glance at a job shows."""

    version: int
    final: bool


class Watch:
    """Each who watches holds a thread, so there are `seats`; who finds none is answered at once."""

    def __init__(
        self,
        version: Callable[[str], tuple[int, Status] | None],
        *,
        seats: int,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
    ) -> None:
        """`version` reads a job's version and status (`Ledger.version`); `pause` sleeps for some seconds."""
        self._version = version
        self._seats = threading.BoundedSemaphore(seats)
        self._closing = threading.Event()
        self._clock = clock
        self._pause = pause or self._closing.wait

    def take_seat(self) -> bool:
        """Ask to watch. True must be followed by `leave_seat`."""
        return self._seats.acquire(blocking=False)

    def leave_seat(self) -> None:
        """Done watching."""
        self._seats.release()

    def close(self) -> None:
        """The server goes down: everybody stops watching now."""
        self._closing.set()

    @property
    def closed(self) -> bool:
        """Whether the server goes down."""
        return self._closing.is_set()

    def beyond(self, job_id: str, seen: int, seconds: float) -> Sight | None:
        """Wait, at most `seconds`, until the job is beyond version `seen` or final; None if it is gone."""
        end = self._clock() + seconds
        delay = FIRST_S
        while True:
            sight = self._look(job_id)
            left = end - self._clock()
            if sight is None or sight.version != seen or sight.final or left <= 0 or self.closed:
                return sight
            self._pause(min(delay, left))
            delay = min(delay * GROWTH, LONGEST_S)

    def finish(self, job_id: str, seconds: float) -> None:
        """Wait until the job is final or gone, at most `seconds`."""
        end = self._clock() + seconds
        sight = self._look(job_id)
        while sight and not sight.final and not self.closed and (left := end - self._clock()) > 0:
            sight = self.beyond(job_id, sight.version, left)

    def _look(self, job_id: str) -> Sight | None:
        found = self._version(job_id)
        return found and Sight(found[0], found[1] in FINAL)
