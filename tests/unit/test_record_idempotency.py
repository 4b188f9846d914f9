"""Idempotency keys: a repeated request finds what the first one made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from services import Doorbell
from story import ERROR, WORK, Story, added, question

from jobs.errors import DocumentNotFound, IdempotencyKeyReused, NotFound
from jobs.idempotency import Key
from jobs.params import NewJob
from jobs.record import Record
from jobs.status import Kind, Status

KEY = Key("order-7", "sha-of-the-request")
OTHER = Key("order-7", "sha-of-another-request")


def test_the_same_request_finds_the_job_of_the_first(record: Record, story: Story, ring: Doorbell) -> None:
    new = question(story.read_document())
    first, replayed = record.ledger.add(new, key=KEY)
    assert not replayed
    ring.take()
    again, replayed = record.ledger.add(new, key=KEY)
    assert replayed
    assert again.id == first.id
    assert ring.messages == []
    assert len(record.ledger.page(limit=10, after=None).rows) == 1


def test_another_request_with_the_same_key_is_refused(record: Record, story: Story) -> None:
    document = story.read_document()
    record.ledger.add(question(document), key=KEY)
    with pytest.raises(IdempotencyKeyReused):
        record.ledger.add(question(document), key=OTHER)
    with pytest.raises(IdempotencyKeyReused):
        record.ledger.add_batch(WORK, [document.id], key=OTHER)


def test_a_request_that_was_refused_leaves_its_key_free(record: Record, story: Story) -> None:
    lost = NewJob(kind=Kind.ASK, params=WORK.params, document_ids=["doc_lost"])
    with pytest.raises(DocumentNotFound):
        record.ledger.add(lost, key=KEY)
    _, replayed = record.ledger.add(question(story.read_document()), key=OTHER)
    assert not replayed


def test_requests_without_a_key_are_each_their_own(record: Record, story: Story) -> None:
    document = story.read_document()
    assert record.ledger.add(question(document))[0].id != record.ledger.add(question(document))[0].id


def test_uploads_batches_and_retries_honour_keys_too(record: Record, story: Story) -> None:
    document, new = added(record, b"x", key=Key("upload", "1"))
    same, also_new = added(record, b"x", key=Key("upload", "1"))
    assert (same.id, new, also_new) == (document.id, True, False)

    batch, replayed = record.ledger.add_batch(WORK, [document.id], key=Key("batch", "1"))
    assert not replayed
    again, replayed = record.ledger.add_batch(WORK, [document.id], key=Key("batch", "1"))
    assert (again.id, replayed) == (batch.id, True)

    job = story.begin()
    record.ledger.end(job, Status.FAILED, error=ERROR)
    version = record.ledger.retry(job.id, key=Key("retry", "1")).version
    assert record.ledger.retry(job.id, key=Key("retry", "1")).version == version


@pytest.mark.parametrize("keys", [[KEY] * 8, [KEY, OTHER] * 4], ids=["one request", "two requests"])
def test_requests_with_one_key_at_once_make_one_job(
    record: Record, story: Story, background: ThreadPoolExecutor, keys: list[Key]
) -> None:
    new, start = question(story.read_document()), Barrier(len(keys))

    def add(key: Key) -> str | None:
        start.wait(timeout=60)
        try:
            return record.ledger.add(new, key=key)[0].id
        except IdempotencyKeyReused:
            return None

    found = list(background.map(add, keys))
    assert len(record.ledger.page(limit=10, after=None).rows) == 1
    assert len({job_id for job_id in found if job_id}) == 1
    winner = keys[next(place for place, job_id in enumerate(found) if job_id)]
    assert [job_id is not None for job_id in found] == [key == winner for key in keys]


def test_a_key_whose_object_was_deleted_says_so(record: Record) -> None:
    document, _ = added(record, b"x", key=Key("upload", "1"))
    job, _ = record.ledger.add(question(document), key=KEY)
    record.ledger.cancel(job.id)
    record.documents.delete(document.id)
    with pytest.raises(NotFound, match="deleted"):
        record.ledger.add(question(document), key=KEY)
    with pytest.raises(NotFound, match="deleted"):
        added(record, b"x", key=Key("upload", "1"))
