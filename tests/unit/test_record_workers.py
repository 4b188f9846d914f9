"""Workers: which cards are ready."""

from __future__ import annotations

from datetime import timedelta

from services import MovableClock

from jobs.objects import Worker
from jobs.record import Record
from jobs.sweep import Sweep

CARD = {"model": "small", "window": 8192}


def test_a_worker_is_ready_while_it_is_seen(record: Record, clock: MovableClock) -> None:
    started = clock()
    record.workers.seen("card-0", card=CARD, capacity={"tokens": 10})
    clock.move(29)
    record.workers.seen("card-0", card=CARD, capacity={"tokens": 5})
    clock.move(29)
    [row] = record.workers.ready()
    shown = Worker.of(row)
    assert (shown.id, shown.card, shown.capacity) == ("card-0", CARD, {"tokens": 5})
    assert (shown.started_at, shown.seen_at) == (started, clock() - timedelta(seconds=29))
    clock.move(2)
    assert record.workers.ready() == []


def test_a_worker_that_went_down_in_order_is_gone_at_once(record: Record) -> None:
    record.workers.seen("card-0", card=CARD, capacity={})
    record.workers.seen("card-1", card=CARD, capacity={})
    record.workers.gone("card-0")
    assert [row.id for row in record.workers.ready()] == ["card-1"]
    record.workers.gone("card-0")


def test_a_worker_long_gone_is_forgotten_and_may_come_back(
    record: Record, clock: MovableClock, sweep: Sweep
) -> None:
    record.workers.seen("card-0", card=CARD, capacity={})
    clock.move(301)
    sweep.run()
    record.workers.seen("card-0", card=CARD, capacity={})
    [row] = record.workers.ready()
    assert row.started_at == clock()
