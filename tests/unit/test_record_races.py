"""Two transactions that meet: one is stopped in its middle by its clock, and the other must wait for it.

Without the locks they would leave a job nobody wakes, a document twice, or two that wait for each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from services import Doorbell, MovableClock, StoppingClock
from story import FACTS, OUTCOME, Story, added, question

from jobs.database import Clock
from jobs.errors import DocumentInUse, LeaseLost
from jobs.queues import MODEL, READ
from jobs.record import Record
from jobs.retention import Retention
from jobs.status import DeliveryStatus, Status

#: Long enough for a transaction that does not wait to be through, seconds.
SHORTLY = 0.05


@pytest.fixture
def stopped() -> StoppingClock:
    return StoppingClock()


@pytest.fixture
def slow(open_again: Callable[[Clock], Record], stopped: StoppingClock) -> Record:
    """The same record in a process that stops where it asks for the time."""
    return open_again(stopped)


Call = Callable[[], object]
Meet = Callable[[Call, Call], tuple[Future[Any], Future[Any]]]


@pytest.fixture
def meet(background: ThreadPoolExecutor, stopped: StoppingClock) -> Meet:
    """Runs the second while the first is stopped in its middle; both are done on return."""

    def run(first: Call, second: Call) -> tuple[Future[Any], Future[Any]]:
        one = background.submit(first)
        assert stopped.asked.wait(timeout=60)
        two = background.submit(second)
        wait([two], timeout=SHORTLY)
        stopped.go.set()
        wait([one, two], timeout=60)
        return one, two

    return run


def test_a_document_that_becomes_ready_while_a_job_is_written_wakes_the_job(
    record: Record, slow: Record, story: Story, ring: Doorbell, meet: Meet
) -> None:
    document = story.upload()
    new = question(document)
    adding, parsing = meet(lambda: slow.ledger.add(new)[0], lambda: story.parse(document))
    assert parsing.exception() is None
    job = adding.result()
    assert (READ, MODEL, job.id) in ring.messages
    assert record.ledger.get(job.id).phase is None


def test_a_job_written_while_its_document_becomes_ready_is_rung(
    record: Record, slow: Record, story: Story, ring: Doorbell, meet: Meet
) -> None:
    claimed = record.documents.claim(story.upload().id)
    assert claimed is not None
    parsing, adding = meet(
        lambda: record.ledger.documents_changed(slow.documents.ready(claimed, FACTS)),
        lambda: record.ledger.add(question(claimed))[0],
    )
    assert parsing.exception() is None
    assert (READ, MODEL, adding.result().id) in ring.messages


def test_a_document_that_becomes_ready_while_a_job_is_retried_wakes_the_job(
    record: Record, slow: Record, story: Story, ring: Doorbell, meet: Meet
) -> None:
    document = story.upload()
    job = story.ask(document)
    record.ledger.cancel(job.id)
    ring.take()
    retrying, parsing = meet(lambda: slow.ledger.retry(job.id), lambda: story.parse(document))
    assert retrying.exception() is parsing.exception() is None
    assert (READ, MODEL, job.id) in ring.messages


def test_the_same_bytes_recorded_by_two_at_once_are_one_document(
    record: Record, slow: Record, meet: Meet
) -> None:
    one, two = meet(lambda: added(slow, b"same"), lambda: added(record, b"same"))
    (first, new), (second, also_new) = one.result(), two.result()
    assert first.id == second.id
    assert (new, also_new) == (True, False)


def test_files_of_a_document_that_is_just_being_recorded_are_not_taken_for_left_over(
    record: Record, slow: Record, meet: Meet
) -> None:
    sha256 = hashlib.sha256(b"new").hexdigest()
    adding, discarding = meet(lambda: added(slow, b"new"), lambda: record.documents.discard(sha256))
    document, _ = adding.result()
    assert discarding.exception() is None
    assert record.files.upload(document.sha256).exists()


def test_cancelling_a_job_while_it_is_claimed_tells_its_worker(
    record: Record, slow: Record, story: Story, meet: Meet
) -> None:
    job = story.ask()
    claiming, cancelling = meet(
        lambda: slow.ledger.claim(job.id, worker_id="card-0"), lambda: record.ledger.cancel(job.id)
    )
    assert claiming.result() is not None
    assert cancelling.exception() is None
    assert record.ledger.get(job.id).status == Status.CANCELLING


def test_a_document_cannot_be_deleted_from_under_a_job_that_is_being_retried(
    record: Record, slow: Record, story: Story, meet: Meet
) -> None:
    job = story.ask()
    record.ledger.cancel(job.id)
    retrying, deleting = meet(
        lambda: slow.ledger.retry(job.id), lambda: record.documents.delete(job.document_ids[0])
    )
    assert retrying.exception() is None
    assert isinstance(deleting.exception(), DocumentInUse)


def test_a_job_cannot_be_finished_twice(record: Record, slow: Record, story: Story, meet: Meet) -> None:
    job = story.begin()
    one, two = meet(
        lambda: slow.ledger.complete(job, OUTCOME), lambda: record.ledger.end(job, Status.EXPIRED)
    )
    assert one.exception() is None
    assert isinstance(two.exception(), LeaseLost)
    assert record.ledger.get(job.id).status == Status.COMPLETED


def test_a_webhook_that_is_sent_again_while_its_job_grows_too_old_keeps_the_job(
    record: Record, slow: Record, story: Story, clock: MovableClock, meet: Meet
) -> None:
    delivery = story.deliver()
    record.deliveries.delivered(delivery, {})
    clock.move(2 * 24 * 3600)
    retention = Retention(record.database, keep_jobs_days=1)
    _, removing = meet(lambda: slow.deliveries.replay(delivery.id), retention.run)
    assert removing.result() == 0
    assert record.deliveries.get(delivery.id).status == DeliveryStatus.QUEUED
