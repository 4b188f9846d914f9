"""Retention: what is removed some days after a job's end, and what keeps it."""

from __future__ import annotations

from contextlib import closing

import pytest
from services import Doorbell, MovableClock
from story import OUTCOME, WORK, Story

from jobs.errors import BatchNotFound, DeliveryNotFound, JobNotFound
from jobs.ledger import Progress
from jobs.params import NewJob
from jobs.record import Record
from jobs.retention import BATCH, Retention
from jobs.status import FINAL, DocumentStatus, Kind, Phase, Status
from jobs.sweep import Sweep
from jobs.tables import JobRow
from settings import Settings
from worker.bootstrap import quick_worker

DAY = 24 * 3600.0


@pytest.fixture
def retention(record: Record) -> Retention:
    return Retention(record.database, keep_jobs_days=3)


def listed(record: Record) -> set[str]:
    return {row.id for row in record.ledger.page(limit=100, after=None).rows}


def test_jobs_are_kept_for_ever_unless_a_number_of_days_is_set(
    record: Record, story: Story, clock: MovableClock
) -> None:
    job = story.begin()
    record.ledger.complete(job, OUTCOME)
    clock.move(10_000 * DAY)
    assert Retention(record.database, keep_jobs_days=None).run() == 0
    assert record.ledger.get(job.id).result == OUTCOME.result


@pytest.mark.parametrize("end", sorted(FINAL))
def test_a_finished_job_is_removed_so_many_days_after_its_end_and_its_document_stays(
    record: Record, story: Story, retention: Retention, clock: MovableClock, end: Status
) -> None:
    job = story.begin()
    clock.move(DAY)
    if end is Status.COMPLETED:
        record.ledger.complete(job, OUTCOME)
    else:
        if end is Status.CANCELLED:
            record.ledger.cancel(job.id)
        record.ledger.end(job, end)
    clock.move(3 * DAY)
    assert retention.run() == 0
    clock.move(1)
    assert retention.run() == 1
    with pytest.raises(JobNotFound):
        record.ledger.get(job.id)
    assert record.documents.get(job.document_ids[0]).status == DocumentStatus.READY


def test_an_unfinished_job_is_never_removed(
    record: Record, story: Story, retention: Retention, clock: MovableClock
) -> None:
    queued, retried = (story.ask(timeout_s=30 * DAY) for _ in range(2))
    record.ledger.cancel(retried.id)
    record.ledger.retry(retried.id)
    running, cancelling = story.begin(), story.begin()
    record.ledger.cancel(cancelling.id)
    for _ in range(10):
        clock.move(DAY)
        for row in (running, cancelling):
            record.ledger.beat(row, Progress(Phase.READING))
        assert retention.run() == 0
    assert listed(record) == {queued.id, retried.id, running.id, cancelling.id}


def test_a_job_that_was_retried_is_kept_from_its_last_end(
    record: Record, story: Story, retention: Retention, clock: MovableClock
) -> None:
    job = story.begin()
    record.ledger.end(job, Status.FAILED)
    clock.move(2 * DAY)
    record.ledger.complete(story.begin(record.ledger.retry(job.id)), OUTCOME)
    clock.move(2 * DAY)
    assert retention.run() == 0
    clock.move(2 * DAY)
    assert retention.run() == 1


def test_a_job_goes_with_its_deliveries_once_these_are_brought_or_given_up(
    record: Record, story: Story, retention: Retention, clock: MovableClock
) -> None:
    sending, waiting = story.deliver(), story.deliver()
    entry = {"at": clock().isoformat(), "status_code": 500, "error": None, "seconds": 0.1}
    record.deliveries.missed(waiting, entry)
    clock.move(4 * DAY)
    assert retention.run() == 0
    record.deliveries.delivered(sending, entry)
    assert retention.run() == 1
    again = record.deliveries.claim(record.deliveries.replay(waiting.id).id)
    assert again is not None
    assert retention.run() == 0
    record.deliveries.missed(again, entry, final=True)
    assert retention.run() == 1
    for row in (sending, waiting):
        with pytest.raises(DeliveryNotFound):
            record.deliveries.get(row.id)


def test_a_batch_goes_with_the_last_of_its_jobs(
    record: Record, story: Story, retention: Retention, clock: MovableClock
) -> None:
    batch, _ = record.ledger.add_batch(WORK, [story.read_document().id] * 2)
    first, second = record.ledger.page(limit=2, after=None).rows
    running = story.begin(second)
    record.ledger.complete(story.begin(first), OUTCOME)
    clock.move(2 * DAY)
    record.ledger.complete(running, OUTCOME)
    clock.move(2 * DAY)
    assert retention.run() == 1
    assert record.ledger.batch(batch.id)[1] == {Status.COMPLETED: 1}
    clock.move(2 * DAY)
    assert retention.run() == 1
    with pytest.raises(BatchNotFound):
        record.ledger.batch(batch.id)


def test_the_turns_of_a_chat_are_kept_as_long_as_the_last_of_them(
    record: Record, story: Story, retention: Retention, clock: MovableClock
) -> None:
    document, turns = story.read_document(), list[JobRow]()
    for _ in range(3):
        follows = {"previous_job_id": turns[-1].id} if turns else {}
        new = NewJob(kind=Kind.CHAT, document_ids=[document.id], params={"message": "And?", **follows})
        turns.append(record.ledger.add(new)[0])
        record.ledger.complete(story.begin(turns[-1]), OUTCOME)
        clock.move(2 * DAY)
    assert retention.run() == 0
    assert [turn.id for turn in record.ledger.conversation(turns[2])] == [turns[0].id, turns[1].id]
    clock.move(2 * DAY)
    assert retention.run() == 3
    assert listed(record) == set()


def test_more_than_one_transaction_takes_are_removed_at_once(
    record: Record, story: Story, sweep: Sweep, retention: Retention, clock: MovableClock
) -> None:
    record.ledger.add_batch(WORK, [story.read_document().id] * (BATCH + 1))
    clock.move(2 * 3600)
    while sweep.run().expired:
        pass
    clock.move(4 * DAY)
    assert (retention.run(), retention.run()) == (BATCH + 1, 0)


def test_the_worker_removes_what_its_settings_say(
    record: Record, story: Story, settings: Settings, ring: Doorbell
) -> None:
    job = story.begin()
    record.ledger.complete(job, OUTCOME)
    for days, left in ((None, {job.id}), (1, {job.id}), (1e-9, set[str]())):
        of_settings = settings.model_copy(update={"keep_jobs_days": days})
        with closing(quick_worker(of_settings, ring=ring, waiting=ring.waiting)) as worker:
            worker.retention.run()
        assert listed(record) == left
