"""Placement: a job goes to the worker that has its document."""

from __future__ import annotations

import pytest
from services import Doorbell, MovableClock
from story import OUTCOME, WORK, Story

from jobs.queues import MODEL, READ, own_queue
from jobs.record import Record
from jobs.status import Status
from jobs.sweep import Sweep
from jobs.tables import DocumentRow, JobRow
from settings import Settings


@pytest.fixture
def cards(record: Record) -> None:
    """Two workers are ready."""
    for card in ("card-0", "card-1"):
        record.workers.seen(card, card={}, capacity={})


@pytest.fixture
def document(record: Record, story: Story, cards: None) -> DocumentRow:
    """One that the second card has read."""
    document = story.read_document()
    record.ledger.complete(story.begin(story.ask(document), worker="card-1"), OUTCOME)
    return document


@pytest.fixture
def promised(record: Record, story: Story, ring: Doorbell, document: DocumentRow) -> JobRow:
    """A job on it, passed on to that card."""
    job = story.ask(document)
    ring.take()
    assert record.ledger.claim(job.id, worker_id="card-0") is None
    return job


def test_a_job_is_passed_on_to_the_worker_that_has_read_its_document(
    record: Record, ring: Doorbell, promised: JobRow
) -> None:
    assert ring.take() == [(READ, own_queue("card-1"), promised.id)]
    assert record.ledger.queue_position(promised) == 1
    taken = record.ledger.claim(promised.id, worker_id="card-1")
    assert taken is not None
    assert (taken.worker_id, taken.attempt) == ("card-1", 1)


def test_the_worker_that_has_read_it_keeps_it(record: Record, story: Story, document: DocumentRow) -> None:
    story.begin(story.ask(document), worker="card-1")
    assert record.ledger.claim(story.ask(document).id, worker_id="card-1")


def test_a_job_follows_the_one_that_is_reading_its_document(
    record: Record, story: Story, cards: None
) -> None:
    document = story.read_document()
    first, second = story.ask(document), story.ask(document)
    assert record.ledger.claim(first.id, worker_id="card-0")
    assert record.ledger.claim(second.id, worker_id="card-1") is None
    assert record.ledger.claim(second.id, worker_id="card-0")


def test_jobs_that_wait_do_not_hide_who_has_the_document(record: Record, document: DocumentRow) -> None:
    record.ledger.add_batch(WORK, [document.id] * 40)
    oldest = record.ledger.page(limit=40, after=None).rows[-1]
    assert record.ledger.claim(oldest.id, worker_id="card-0") is None


def test_a_job_on_a_new_document_goes_to_the_idler_worker(
    record: Record, story: Story, ring: Doorbell, cards: None
) -> None:
    assert record.ledger.claim(story.ask().id, worker_id="card-0")
    second, third = story.ask(), story.ask()
    ring.take()
    assert record.ledger.claim(second.id, worker_id="card-0") is None
    assert ring.take() == [(READ, own_queue("card-1"), second.id)]
    assert record.ledger.claim(third.id, worker_id="card-0")  # the other is promised one


def test_a_worker_without_a_free_seat_is_spared(
    record: Record, story: Story, settings: Settings, document: DocumentRow
) -> None:
    for _ in range(settings.jobs_per_card):
        assert record.ledger.claim(story.ask(document).id, worker_id="card-1")
    assert record.ledger.claim(story.ask(document).id, worker_id="card-0")


def test_a_worker_that_was_started_again_has_read_nothing(
    record: Record, story: Story, clock: MovableClock, document: DocumentRow
) -> None:
    clock.move(1)
    record.workers.gone("card-1")
    record.workers.seen("card-1", card={}, capacity={})
    assert record.ledger.claim(story.ask(document).id, worker_id="card-0")


def test_a_worker_that_is_gone_gets_nothing(record: Record, story: Story, document: DocumentRow) -> None:
    record.workers.gone("card-1")
    assert record.ledger.claim(story.ask(document).id, worker_id="card-0")


def test_what_was_meant_for_a_worker_that_is_gone_is_for_all_again(
    record: Record, sweep: Sweep, ring: Doorbell, promised: JobRow
) -> None:
    assert sweep.run().rung == 0
    ring.take()
    record.workers.gone("card-1")
    assert sweep.run().rung == 1
    assert ring.take() == [(READ, MODEL, promised.id)]
    assert record.ledger.claim(promised.id, worker_id="card-0")


def test_a_job_that_a_busy_worker_sits_on_is_rung_for_at_an_idle_one(
    story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock, cards: None
) -> None:
    story.begin(worker="card-0")
    job = story.ask()
    ring.take()
    clock.move(16)
    assert sweep.run().rung == 1
    assert ring.take() == [(READ, own_queue("card-1"), job.id)]


def test_what_a_worker_does_not_take_is_for_all_again_and_kept_by_who_takes_it(
    record: Record, sweep: Sweep, ring: Doorbell, clock: MovableClock, promised: JobRow
) -> None:
    ring.take()
    clock.move(6)
    assert sweep.run().rung == 1
    assert ring.take() == [(READ, MODEL, promised.id)]
    assert record.ledger.claim(promised.id, worker_id="card-0")


def test_a_job_passed_on_keeps_its_place_in_the_queue(
    record: Record, story: Story, document: DocumentRow
) -> None:
    first, second = story.ask(document), story.ask(document)
    assert record.ledger.claim(first.id, worker_id="card-0") is None
    assert [record.ledger.queue_position(job) for job in (first, second)] == [1, 2]


def test_promises_count_as_jobs_so_that_no_worker_gets_more_than_its_seats(
    record: Record, story: Story, settings: Settings, document: DocumentRow
) -> None:
    jobs = [story.ask(document) for _ in range(settings.jobs_per_card + 1)]
    *promised, last = (record.ledger.claim(job.id, worker_id="card-0") for job in jobs)
    assert promised == [None] * settings.jobs_per_card
    assert last


def test_a_full_worker_passes_on_what_an_idle_one_could_take(
    record: Record, story: Story, settings: Settings, document: DocumentRow
) -> None:
    for _ in range(settings.jobs_per_card):
        assert record.ledger.claim(story.ask(document).id, worker_id="card-1")
    assert record.ledger.claim(story.ask(document).id, worker_id="card-1") is None


def test_a_read_that_failed_leaves_nothing_to_follow(record: Record, story: Story, cards: None) -> None:
    document = story.read_document()
    record.ledger.end(story.begin(story.ask(document), worker="card-1"), Status.FAILED)
    assert record.ledger.claim(story.ask(document).id, worker_id="card-0")


def test_a_job_passed_on_can_be_cancelled(record: Record, promised: JobRow) -> None:
    assert record.ledger.cancel(promised.id).status == Status.CANCELLED
    assert record.ledger.claim(promised.id, worker_id="card-1") is None
