"""The moves of a job: every one that is written down happens, and no other does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from services import Doorbell, MovableClock, sweep_of
from story import ERROR, OUTCOME, Story

from jobs.errors import RecordError
from jobs.record import Record
from jobs.status import FINAL, MOVES, UNFINISHED, UNSUCCESSFUL, Status
from jobs.sweep import Sweep
from jobs.tables import JobRow
from settings import Settings

Bring = Callable[[Status], list[JobRow]]
Door = Callable[[JobRow], object]


@pytest.fixture
def bring(record: Record, story: Story, clock: MovableClock, sweep: Sweep) -> Bring:
    """Jobs at a status: one whose document is ready, and, if it is queued, one that waits for it."""
    document = story.read_document()

    def to(status: Status) -> list[JobRow]:
        if status is Status.QUEUED:
            return [story.ask(document), story.ask(story.upload())]
        if status is Status.EXPIRED:
            job = story.ask(document, timeout_s=1)
            clock.move(2)
            sweep.run()
            return [record.ledger.get(job.id)]
        job = story.begin(story.ask(document))
        if status in {Status.CANCELLING, Status.CANCELLED}:
            record.ledger.cancel(job.id)
        if status is Status.COMPLETED:
            record.ledger.complete(job, OUTCOME)
        elif status in FINAL:
            record.ledger.end(job, status)
        return [record.ledger.get(job.id)]

    return to


@pytest.fixture
def doors(
    record: Record, clock: MovableClock, sweep: Sweep, ring: Doorbell, settings: Settings
) -> list[Door]:
    """Everything that can be done to a job."""
    strict = sweep_of(record, ring, settings.model_copy(update={"max_attempts": 1}))

    def wait(seconds: float, sweep: Sweep) -> None:
        clock.move(seconds)
        sweep.run()

    def lose_a_document(job: JobRow) -> None:
        document = record.documents.claim(job.document_ids[0])
        if document is not None:
            record.ledger.documents_changed(record.documents.fail(document, ERROR))

    return [
        lambda job: record.ledger.claim(job.id, worker_id="card-1"),
        lambda job: record.ledger.cancel(job.id),
        lambda job: record.ledger.retry(job.id),
        lambda job: record.ledger.complete(job, OUTCOME),
        *[lambda job, status=status: record.ledger.end(job, status) for status in Status],
        record.ledger.give_back,
        lambda job: record.ledger.documents_changed([job.id]),
        lambda job: wait(31, sweep),
        lambda job: wait(31, strict),
        lambda job: wait(3601, sweep),
        lose_a_document,
    ]


@pytest.mark.parametrize("before", Status)
def test_from_each_status_a_job_can_go_where_the_map_says_and_nowhere_else(
    record: Record, bring: Bring, doors: list[Door], before: Status
) -> None:
    reached = set()
    for door in doors:
        for job in bring(before):
            assert job.status == before
            try:
                door(job)
            except RecordError:
                continue
            after = record.ledger.get(job.id)
            if after.status != before:
                assert after.version > job.version
                reached.add(Status(after.status))
    assert reached == MOVES[before]


def test_the_map_of_moves_ends_only_where_a_job_is_finished() -> None:
    assert set(MOVES) == set(Status) == FINAL | UNFINISHED
    assert {status for status, targets in MOVES.items() if not targets} == {Status.COMPLETED}
    assert all(MOVES[status] == {Status.QUEUED} for status in UNSUCCESSFUL)
