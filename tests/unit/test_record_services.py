"""The clock and the doorbell that stand in for real ones do what the tests rely on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from services import Doorbell, MovableClock, StoppingClock

from jobs.database import Clock, Ring, utc_now
from jobs.queues import CPU, MODEL, PARSE, READ


def test_a_movable_clock_stands_still_until_it_is_moved() -> None:
    clock = MovableClock()
    as_any_clock: Clock = clock
    before = as_any_clock()
    assert clock() == before
    clock.move(1.5)
    assert clock() - before == timedelta(seconds=1.5)
    assert clock().tzinfo is utc_now().tzinfo


def test_a_stopping_clock_holds_who_asks_until_it_may_go(background: ThreadPoolExecutor) -> None:
    clock = StoppingClock()
    asking = background.submit(clock)
    assert clock.asked.wait(timeout=60)
    assert not asking.done()
    clock.go.set()
    assert asking.result(timeout=60) <= utc_now()


def test_a_doorbell_keeps_messages_until_they_are_taken() -> None:
    bell = Doorbell()
    as_any_ring: Ring = bell
    as_any_ring(PARSE, CPU, "doc_1")
    as_any_ring(READ, MODEL, "job_1")
    assert (bell.waiting(CPU), bell.waiting(MODEL), bell.waiting("other")) == (1, 1, 0)
    assert bell.take() == [(PARSE, CPU, "doc_1"), (READ, MODEL, "job_1")]
    assert bell.waiting(CPU) == 0
