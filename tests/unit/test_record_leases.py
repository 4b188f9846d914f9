"""Claims and leases: one worker at a time, and a late one is turned away."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from services import MovableClock
from story import ERROR, FACTS, OUTCOME, Story

from jobs.errors import LeaseLost
from jobs.ledger import Progress
from jobs.record import Record
from jobs.status import Phase, Status
from jobs.sweep import Sweep
from jobs.tables import JobRow


def test_of_two_workers_that_answer_one_message_one_gets_the_job(
    record: Record, story: Story, background: ThreadPoolExecutor
) -> None:
    document = story.read_document()
    start = Barrier(2)
    for _ in range(20):
        job = story.ask(document)

        def claim(worker: str, job_id: str = job.id) -> JobRow | None:
            start.wait(timeout=60)
            return record.ledger.claim(job_id, worker_id=worker)

        claims = [claimed for claimed in background.map(claim, ["card-0", "card-1"]) if claimed]
        assert len(claims) == 1
        row = record.ledger.get(job.id)
        assert (row.status, row.attempt, row.worker_id) == (Status.IN_PROGRESS, 1, claims[0].worker_id)


def test_a_claim_hands_out_a_token_that_grows(record: Record, story: Story) -> None:
    job = story.ask()
    first = story.begin(job)
    record.ledger.give_back(first)
    second = story.begin(job)
    assert (first.attempt, second.attempt) == (1, 2)


def test_a_doubled_message_finds_nothing_to_do(record: Record, story: Story) -> None:
    job = story.begin()
    assert record.ledger.claim(job.id, worker_id="card-1") is None
    assert record.ledger.get(job.id).attempt == 1
    document = story.upload()
    assert record.documents.claim(document.id) is not None
    assert record.documents.claim(document.id) is None


def test_a_late_message_finds_nothing_to_do(record: Record, story: Story) -> None:
    done, cancelled = story.begin(), story.ask()
    record.ledger.complete(done, OUTCOME)
    record.ledger.cancel(cancelled.id)
    for job in (done, cancelled):
        assert record.ledger.claim(job.id, worker_id="card-1") is None
    assert record.ledger.get(done.id).status == Status.COMPLETED
    assert record.ledger.get(cancelled.id).status == Status.CANCELLED
    assert record.documents.claim(done.document_ids[0]) is None


def test_a_message_about_nothing_finds_nothing_to_do(record: Record) -> None:
    assert record.ledger.claim("job_lost", worker_id="card-0") is None
    assert record.documents.claim("doc_lost") is None
    assert record.deliveries.claim("msg_lost") is None


def test_a_message_for_a_job_whose_time_is_over_expires_it(
    record: Record, story: Story, clock: MovableClock
) -> None:
    job = story.ask(timeout_s=10)
    clock.move(10)
    assert record.ledger.claim(job.id, worker_id="card-0") is None
    assert record.ledger.get(job.id).status == Status.EXPIRED


Late = Callable[[Record, JobRow], object]


@pytest.mark.parametrize(
    "late",
    [
        lambda record, job: record.ledger.beat(job, Progress(Phase.READING)),
        lambda record, job: record.ledger.complete(job, OUTCOME),
        lambda record, job: record.ledger.end(job, Status.FAILED, error=ERROR),
        lambda record, job: record.ledger.give_back(job),
    ],
    ids=["beat", "complete", "end", "give_back"],
)
def test_a_worker_that_slept_through_its_lease_changes_nothing(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock, late: Late
) -> None:
    slept = story.begin(worker="card-0")
    clock.move(31)
    assert sweep.run().recovered == 1
    queued = record.ledger.version(slept.id)
    with pytest.raises(LeaseLost):
        late(record, slept)
    assert record.ledger.version(slept.id) == queued
    story.begin(slept, worker="card-1")
    taken_over = record.ledger.version(slept.id)
    with pytest.raises(LeaseLost):
        late(record, slept)
    assert record.ledger.version(slept.id) == taken_over


def test_a_worker_whose_job_was_deleted_with_its_document_is_told(record: Record, story: Story) -> None:
    job = story.begin()
    record.ledger.end(job, Status.FAILED, error=ERROR)
    record.documents.delete(job.document_ids[0])
    with pytest.raises(LeaseLost):
        record.ledger.beat(job, Progress(Phase.READING))


def test_a_parser_that_slept_through_its_lease_changes_nothing(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    slept = record.documents.claim(story.upload().id)
    assert slept is not None
    clock.move(31)
    sweep.run()
    story.parse(slept)
    with pytest.raises(LeaseLost):
        record.documents.beat(slept, pages_done=1, pages_total=None)
    with pytest.raises(LeaseLost):
        record.documents.fail(slept, ERROR)
    with pytest.raises(LeaseLost):
        record.documents.ready(slept, {**FACTS, "pages_total": 99})
    assert record.documents.get(slept.id).pages_total == FACTS["pages_total"]


def test_a_heartbeat_keeps_the_job(record: Record, story: Story, sweep: Sweep, clock: MovableClock) -> None:
    job = story.begin()
    for _ in range(5):
        clock.move(29)
        record.ledger.beat(job, Progress(Phase.READING))
        assert sweep.run().recovered == 0
    clock.move(31)
    assert sweep.run().recovered == 1


def test_a_heartbeat_keeps_the_document(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    document = record.documents.claim(story.upload().id)
    assert document is not None
    for page in range(5):
        clock.move(29)
        record.documents.beat(document, pages_done=page, pages_total=None)
        assert sweep.run().recovered == 0
    clock.move(31)
    assert sweep.run().recovered == 1
