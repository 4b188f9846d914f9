"""Batches: the same job for many documents, all or none."""

from __future__ import annotations

import pytest
from services import Doorbell
from story import ERROR, OUTCOME, WORK, Story

from jobs.errors import BatchNotFound, DocumentFailed, DocumentNotFound, QueueFull
from jobs.objects import Batch
from jobs.queues import MODEL, READ
from jobs.record import Record
from jobs.status import Phase, Status


def test_a_batch_is_one_job_a_document(record: Record, story: Story, ring: Doorbell) -> None:
    documents = [story.read_document() for _ in range(3)]
    ring.take()
    batch, _ = record.ledger.add_batch(WORK, [document.id for document in documents])
    jobs = record.ledger.page(limit=10, after=None, batch_id=batch.id).rows
    assert sorted(job.document_ids[0] for job in jobs) == sorted(row.id for row in documents)
    assert sorted(ring.take()) == sorted((READ, MODEL, job.id) for job in jobs)


def test_the_jobs_of_a_batch_wait_each_for_its_own_document(record: Record, story: Story) -> None:
    ready, queued = story.read_document(), story.upload()
    batch, _ = record.ledger.add_batch(WORK, [ready.id, queued.id])
    jobs = record.ledger.page(limit=10, after=None, batch_id=batch.id).rows
    phases = {job.document_ids[0]: job.phase for job in jobs}
    assert phases == {ready.id: None, queued.id: Phase.PARSING}


def test_a_batch_tells_how_many_of_its_jobs_stand_where(record: Record, story: Story) -> None:
    document = story.read_document()
    story.ask(document)
    batch, _ = record.ledger.add_batch(WORK, [document.id] * 3)
    first, second, third = record.ledger.page(limit=10, after=None, batch_id=batch.id).rows
    record.ledger.complete(story.begin(first), OUTCOME)
    record.ledger.end(story.begin(second), Status.FAILED, error=ERROR)
    row, counts = record.ledger.batch(batch.id)
    assert counts == {Status.QUEUED: 1, Status.COMPLETED: 1, Status.FAILED: 1}
    assert Batch.of(row, counts).status == "in_progress"
    record.ledger.cancel(third.id)
    assert Batch.of(*record.ledger.batch(batch.id)).status == "finished"


def test_a_batch_with_one_impossible_document_makes_no_job_at_all(
    record: Record, story: Story, ring: Doorbell
) -> None:
    fine, broken = story.read_document(), story.fail_to_parse(story.upload())
    ring.take()
    with pytest.raises(DocumentNotFound, match="doc_lost"):
        record.ledger.add_batch(WORK, [fine.id, "doc_lost"])
    with pytest.raises(DocumentFailed, match=broken.id):
        record.ledger.add_batch(WORK, [fine.id, broken.id])
    assert record.ledger.page(limit=10, after=None).rows == []
    assert ring.messages == []


def test_a_batch_the_queue_has_no_room_for_makes_no_job_at_all(record: Record, story: Story) -> None:
    document = story.read_document()
    with pytest.raises(QueueFull):
        record.ledger.add_batch(WORK, [document.id] * 601)
    assert record.ledger.counts() == {}


def test_a_batch_that_does_not_exist_is_not_found(record: Record) -> None:
    with pytest.raises(BatchNotFound):
        record.ledger.batch("batch_lost")
