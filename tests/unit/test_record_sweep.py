"""The sweep: dead workers, lost messages, jobs nobody got to."""

from __future__ import annotations

import pytest
from services import Doorbell, MovableClock
from story import ERROR, FACTS, WORK, Story, question

from jobs.idempotency import Key
from jobs.queues import CPU, DELIVER, MODEL, PARSE, QUICK, READ
from jobs.record import Record
from jobs.status import DeliveryStatus, DocumentStatus, Phase, Status
from jobs.sweep import BATCH, Sweep, Swept

# -- messages ----------------------------------------------------------------------------------------------


def test_nothing_to_do_is_nothing_done(sweep: Sweep) -> None:
    assert sweep.run() == Swept(recovered=0, expired=0, rung=0)


def test_a_lost_message_is_rung_again_after_a_while(
    story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    job = story.ask()
    ring.take()
    clock.move(14)
    assert sweep.run().rung == 0
    clock.move(2)
    assert sweep.run().rung == 1
    assert ring.take() == [(READ, MODEL, job.id)]
    assert sweep.run().rung == 0
    clock.move(16)
    assert sweep.run().rung == 1


def test_a_message_that_waits_in_its_queue_is_not_rung_again(
    story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    story.ask()
    lost = story.upload()
    messages = [message for message in ring.take() if message[1] == MODEL]
    ring.messages = messages.copy()
    clock.move(100)
    assert sweep.run().rung == 1
    assert ring.messages == [*messages, (PARSE, CPU, lost.id)]


def test_a_claimed_message_is_never_rung_again(
    story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    story.begin(story.ask())
    ring.take()
    clock.move(20)
    assert sweep.run().rung == 0


def test_a_delivery_is_not_kept_waiting_by_a_long_queue_of_jobs(
    record: Record, story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    delivery = story.deliver()
    record.ledger.add_batch(WORK, [story.read_document().id] * BATCH)
    record.deliveries.missed(delivery, {"seconds": 1.0})
    clock.move(20)
    sweep.run()
    assert (DELIVER, QUICK, delivery.id) == ring.messages[-1]


# -- dead workers ------------------------------------------------------------------------------------------


def test_a_job_whose_worker_died_is_queued_again(
    record: Record, story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    job = story.begin()
    ring.take()
    clock.move(31)
    assert sweep.run() == Swept(recovered=1, expired=0, rung=0)
    row = record.ledger.get(job.id)
    assert (row.status, row.tries, row.worker_id) == (Status.QUEUED, 1, None)
    assert ring.take() == [(READ, MODEL, job.id)]


def test_a_job_that_kills_its_workers_fails(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    job = story.ask()
    for _ in range(3):
        story.begin(job)
        clock.move(31)
        sweep.run()
    row = record.ledger.get(job.id)
    assert row.status == Status.FAILED
    assert row.error is not None
    assert row.error["code"] == "attempts_exhausted"
    assert "3 times" in row.error["message"]


def test_tries_given_back_are_not_deaths(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    job = story.ask()
    for _ in range(5):
        record.ledger.give_back(story.begin(job))
    for _ in range(2):
        story.begin(job)
        clock.move(31)
        sweep.run()
    assert record.ledger.get(job.id).status == Status.QUEUED


def test_a_job_being_cancelled_whose_worker_died_is_cancelled(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    job = story.begin()
    record.ledger.cancel(job.id)
    clock.move(31)
    sweep.run()
    assert record.ledger.get(job.id).status == Status.CANCELLED


def test_a_document_whose_parser_died_is_queued_again(
    record: Record, story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    document = record.documents.claim(story.upload().id)
    assert document is not None
    ring.take()
    clock.move(31)
    assert sweep.run().recovered == 1
    assert record.documents.get(document.id).status == DocumentStatus.QUEUED
    assert ring.take() == [(PARSE, CPU, document.id)]


def test_a_document_that_kills_its_parsers_fails_and_the_jobs_on_it(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    document = story.upload()
    job = story.ask(document)
    for _ in range(3):
        assert record.documents.claim(document.id) is not None
        clock.move(31)
        sweep.run()
    failed = record.documents.get(document.id)
    assert failed.status == DocumentStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "attempts_exhausted"
    row = record.ledger.get(job.id)
    assert row.status == Status.FAILED
    assert row.error == {**failed.error, "document_id": document.id}


def test_a_delivery_whose_sender_died_is_tried_later(
    record: Record, story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    delivery = story.deliver()
    ring.take()
    clock.move(46)
    assert sweep.run().recovered == 1
    assert record.deliveries.get(delivery.id).status == DeliveryStatus.QUEUED
    assert ring.messages == []
    clock.move(5)
    assert sweep.run().rung == 1
    assert ring.take() == [(DELIVER, QUICK, delivery.id)]


# -- jobs nobody got to ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parsed", [True, False], ids=["its document is ready", "its document is not"])
def test_a_job_nobody_got_to_in_time_expires(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock, parsed: bool
) -> None:
    document = story.read_document() if parsed else story.upload()
    job = story.ask(document, timeout_s=60)
    clock.move(59)
    assert sweep.run().expired == 0
    clock.move(2)
    assert sweep.run().expired == 1
    row = record.ledger.get(job.id)
    assert (row.status, row.finished_at) == (Status.EXPIRED, clock())
    assert record.ledger.claim(job.id, worker_id="card-0") is None


def test_an_expired_job_is_not_rung_again(
    story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    story.ask(timeout_s=1)
    ring.take()
    clock.move(100)
    assert sweep.run() == Swept(recovered=0, expired=1, rung=0)


def test_a_running_job_is_left_to_its_worker_however_late(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    job = story.begin(story.ask(timeout_s=10))
    clock.move(20)
    assert sweep.run() == Swept(recovered=0, expired=0, rung=0)
    assert record.ledger.get(job.id).status == Status.IN_PROGRESS


def test_a_job_whose_worker_died_too_late_expires_instead_of_being_tried_again(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    job = story.begin(story.ask(timeout_s=10))
    clock.move(31)
    assert sweep.run() == Swept(recovered=1, expired=1, rung=0)
    assert record.ledger.get(job.id).status == Status.EXPIRED


@pytest.mark.parametrize("fails", [False, True], ids=["ready", "failed"])
def test_jobs_are_woken_when_the_one_who_should_have_told_them_died(
    record: Record, story: Story, sweep: Sweep, ring: Doorbell, fails: bool
) -> None:
    document, other = story.upload(), story.upload()
    job, waiting = story.ask(document), story.ask(document, other)
    claimed = record.documents.claim(document.id)
    assert claimed is not None
    told = record.documents.fail(claimed, ERROR) if fails else record.documents.ready(claimed, FACTS)
    assert set(told) == {job.id, waiting.id}
    ring.take()
    sweep.run()
    row = record.ledger.get(job.id)
    assert row.status == (Status.FAILED if fails else Status.QUEUED)
    assert ring.take() == ([] if fails else [(READ, MODEL, job.id)])
    assert record.ledger.get(waiting.id).phase == Phase.PARSING


# -- what is forgotten -------------------------------------------------------------------------------------


def test_an_idempotency_key_is_forgotten_after_its_time(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    new, key = question(story.read_document()), Key("once", "print")
    first, _ = record.ledger.add(new, key=key)
    clock.move(3599)
    sweep.run()
    assert record.ledger.add(new, key=key)[0].id == first.id
    clock.move(2)
    sweep.run()
    assert record.ledger.add(new, key=key)[0].id != first.id
