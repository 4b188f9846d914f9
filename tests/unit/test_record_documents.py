"""Documents, from the upload to pages of text."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from services import Doorbell, MovableClock
from story import ERROR, FACTS, OUTCOME, Story, added, question

from jobs.errors import DocumentInUse, DocumentNotFound, JobNotFound
from jobs.objects import Document
from jobs.queues import CPU, MODEL, PARSE, READ
from jobs.record import Record, open_record
from jobs.status import DocumentStatus, Status
from settings import Settings


def test_the_same_bytes_are_the_same_document(record: Record, ring: Doorbell) -> None:
    first, new = added(record, b"same")
    assert new
    again, new = added(record, b"same", filename="b.pdf")
    assert not new
    assert (again.id, again.filename) == (first.id, "a.pdf")
    assert ring.take() == [(PARSE, CPU, first.id)]


def test_the_same_bytes_uploaded_at_once_are_one_document(
    record: Record, background: ThreadPoolExecutor
) -> None:
    for turn in range(5):
        add = partial(added, record, b"%d" % turn)
        found = list(background.map(lambda name, add=add: add(filename=name), "abcdefgh"))
        assert len({row.id for row, _ in found}) == 1
        assert sum(new for _, new in found) == 1


def test_a_long_name_keeps_its_end_where_the_suffix_is(record: Record) -> None:
    row, _ = added(record, b"x", filename="a" * 300 + ".pdf")
    assert len(row.filename) == 255
    assert row.filename.endswith("a.pdf")


def test_a_password_that_was_forgotten_may_be_sent_after_the_document(record: Record) -> None:
    document, _ = added(record, b"locked")
    added(record, b"locked", password="secret")
    added(record, b"locked")
    claimed = record.documents.claim(document.id)
    assert claimed is not None
    assert claimed.password == "secret"


def test_a_parsed_document_tells_what_the_parser_found_and_forgets_the_password(
    record: Record, story: Story, clock: MovableClock
) -> None:
    document = story.upload(password="secret")
    claimed = record.documents.claim(document.id)
    assert claimed is not None
    assert claimed.password == "secret"
    record.documents.ready(claimed, FACTS)
    row = record.documents.get(document.id)
    assert (row.status, row.pages_total, row.parsed_at) == (DocumentStatus.READY, 3, clock())
    assert row.password is None
    assert row.lease_until is None


def test_a_heartbeat_tells_the_pages_parsed(record: Record, story: Story) -> None:
    claimed = record.documents.claim(story.upload().id)
    assert claimed is not None
    record.documents.beat(claimed, pages_done=2, pages_total=9)
    shown = Document.of(record.documents.get(claimed.id))
    assert (shown.pages.done, shown.pages.total) == (2, 9)
    assert shown.status is DocumentStatus.IN_PROGRESS


def test_a_document_that_failed_is_tried_again_when_it_is_uploaded_again(
    record: Record, story: Story, ring: Doorbell
) -> None:
    document = story.fail_to_parse(story.upload(b"locked", password="wrong"))
    assert document.error == ERROR
    assert document.password is None
    ring.take()
    again, new = added(record, b"locked", password="right")
    assert not new
    assert (again.id, again.status, again.error) == (document.id, DocumentStatus.QUEUED, None)
    assert ring.take() == [(PARSE, CPU, document.id)]
    claimed = record.documents.claim(document.id)
    assert claimed is not None
    assert claimed.password == "right"


def test_a_document_nobody_uses_can_be_deleted(record: Record, story: Story) -> None:
    document = story.upload()
    record.documents.delete(document.id)
    with pytest.raises(DocumentNotFound):
        record.documents.get(document.id)
    assert record.documents.claim(document.id) is None


def test_deleting_a_document_deletes_the_finished_jobs_on_it_and_what_they_left(
    record: Record, story: Story
) -> None:
    document, other = story.read_document(), story.read_document()
    job = story.begin(story.ask(document, other, webhook_url="https://example.org/hook"))
    record.ledger.complete(job, OUTCOME)
    [delivery] = record.deliveries.of_job(job.id)
    kept = story.ask(other)
    record.documents.delete(document.id)
    with pytest.raises(JobNotFound):
        record.ledger.get(job.id)
    assert record.deliveries.of_job(job.id) == []
    assert record.deliveries.claim(delivery.id) is None
    assert record.ledger.get(kept.id).status == Status.QUEUED
    assert record.documents.get(other.id).status == DocumentStatus.READY


@pytest.mark.parametrize("started", [False, True], ids=["queued", "in progress"])
def test_a_document_an_unfinished_job_needs_cannot_be_deleted(
    record: Record, story: Story, started: bool
) -> None:
    document = story.read_document()
    job = story.ask(document)
    if started:
        story.begin(job)
    with pytest.raises(DocumentInUse):
        record.documents.delete(document.id)
    assert record.documents.get(document.id).status == DocumentStatus.READY
    assert record.files.upload(document.sha256).exists()


def test_which_documents_exist_can_be_asked_for_many(record: Record) -> None:
    ids = [added(record, b"%d" % n)[0].id for n in range(3)]
    record.documents.delete(ids[1])
    unknown = [f"doc_{number}" for number in range(2_500)]
    assert record.documents.existing([*unknown, *ids]) == {ids[0], ids[2]}
    assert record.documents.existing([]) == set()


def test_deleting_what_is_not_there_says_so(record: Record) -> None:
    with pytest.raises(DocumentNotFound, match="doc_nothing"):
        record.documents.delete("doc_nothing")


def test_deleted_bytes_can_be_uploaded_again(record: Record, story: Story) -> None:
    first = story.parse(story.upload(b"same"))
    record.documents.delete(first.id)
    again, new = added(record, b"same")
    assert new
    assert again.id != first.id


def test_bytes_uploaded_while_their_document_is_deleted_are_kept(record: Record, story: Story) -> None:
    first = story.upload(b"same")
    with record.files.incoming() as file:
        file.write(b"same")
        record.documents.delete(first.id)
        again, new = record.documents.add(file, filename="a.txt", password=None)
    assert new
    assert record.files.upload(again.sha256).read_bytes() == b"same"


def test_a_deleted_document_leaves_no_file_and_others_keep_theirs(record: Record, story: Story) -> None:
    document, other = story.upload(), story.upload()
    for row in (document, other):
        record.files.save_text(row.sha256, "1", b"text")
    record.documents.delete(document.id)
    assert not record.files.upload(document.sha256).exists()
    assert record.files.text(document.sha256, "1") is None
    assert record.files.upload(other.sha256).exists()
    assert record.files.text(other.sha256, "1") == b"text"


@pytest.fixture
def renewed(settings: Settings, ring: Doorbell) -> Iterator[Record]:
    """The same record after an upgrade of the parsers."""
    record = open_record(settings, ring=ring, parser_version="2")
    yield record
    record.close()


def test_text_of_older_parsers_is_made_anew_when_the_file_is_uploaded_again(
    story: Story, renewed: Record, ring: Doorbell
) -> None:
    document = story.parse(story.upload(b"same"))
    ring.take()
    again, new = added(renewed, b"same", password="secret")
    assert (again.id, new, again.status, again.password) == (
        document.id,
        False,
        DocumentStatus.QUEUED,
        "secret",
    )
    assert ring.take() == [(PARSE, CPU, document.id)]


def test_text_of_older_parsers_is_made_anew_when_a_job_asks_for_it(
    story: Story, renewed: Record, ring: Doorbell
) -> None:
    document = story.read_document()
    ring.take()
    job, _ = renewed.ledger.add(question(document))
    assert ring.take() == [(PARSE, CPU, document.id)]
    claimed = renewed.documents.claim(document.id)
    assert claimed is not None
    renewed.ledger.documents_changed(renewed.documents.ready(claimed, {**FACTS, "parser_version": "2"}))
    assert ring.take() == [(READ, MODEL, job.id)]
    assert renewed.documents.get(document.id).parser_version == "2"
    renewed.ledger.add(question(document))
    assert [task for task, *_ in ring.take()] == [READ]


def test_what_newer_parsers_cannot_read_keeps_its_text_and_is_not_tried_again(
    story: Story, renewed: Record, ring: Doorbell
) -> None:
    document = story.read_document()
    renewed.ledger.add(question(document))
    claimed = renewed.documents.claim(document.id)
    assert claimed is not None
    renewed.ledger.documents_changed(renewed.documents.fail(claimed, ERROR))
    row = renewed.documents.get(document.id)
    assert (row.status, row.parser_version, row.error) == (DocumentStatus.READY, "1", None)
    assert "damaged" in (row.warnings or [""])[-1]
    ring.take()
    renewed.ledger.add(question(document))
    assert [task for task, *_ in ring.take()] == [READ]
