"""What the record needs around it in tests: a clock to move, a clock to stop at, a doorbell to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Event

from jobs.database import utc_now
from jobs.record import Record
from jobs.sweep import Sweep
from settings import Settings


class MovableClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now or utc_now()

    def __call__(self) -> datetime:
        return self._now

    def move(self, seconds: float) -> None:
        """Let so much time pass."""
        self._now += timedelta(seconds=seconds)


class StoppingClock:
    """A clock that holds whoever asks for the time: a transaction stops in its middle until `go` is set."""

    def __init__(self) -> None:
        self.asked = Event()
        self.go = Event()

    def __call__(self) -> datetime:
        self.asked.set()
        assert self.go.wait(timeout=60), "nobody let the clock go on"
        return utc_now()


@dataclass
class Doorbell:
    """A queue that keeps what is rung until somebody takes or loses it."""

    messages: list[tuple[str, str, str]] = field(default_factory=list)

    def __call__(self, task: str, queue: str, subject_id: str) -> bool:
        self.messages.append((task, queue, subject_id))
        return True

    def take(self) -> list[tuple[str, str, str]]:
        """Everything in the queue, which is then empty."""
        taken, self.messages = self.messages, []
        return taken

    def waiting(self, queue: str) -> int:
        """How many messages are in a queue."""
        return sum(message[1] == queue for message in self.messages)


def sweep_of(record: Record, ring: Doorbell, settings: Settings) -> Sweep:
    """The sweep of a record whose queue is `ring`."""
    return Sweep(
        record.database,
        record.documents,
        record.ledger,
        record.deliveries,
        ring=ring,
        waiting=ring.waiting,
        max_attempts=settings.max_attempts,
        ring_again_s=settings.ring_again_s,
        idempotency_s=settings.idempotency_s,
    )
