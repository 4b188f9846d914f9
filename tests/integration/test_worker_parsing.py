"""Parsing: an upload claimed, parsed in a real child process, its text kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from services import Doorbell
from story import Story

import parsers
from jobs.queues import MODEL, READ
from jobs.record import Record
from jobs.status import DocumentStatus
from worker.parsing import Parsing


class Deleting(parsers.Sandbox):
    """Somebody deletes the document while it is parsed."""

    def __init__(self, record: Record, document_id: str) -> None:
        super().__init__(parsers.Limits())
        self._record = record
        self._document_id = document_id

    def parse(self, *args: Any, **more: Any) -> parsers.Document:
        document = super().parse(*args, **more)
        self._record.documents.delete(self._document_id)
        return document


@pytest.fixture
def sandbox() -> Iterator[parsers.Sandbox]:
    sandbox = parsers.Sandbox(parsers.Limits())
    yield sandbox
    sandbox.close()


def parse(record: Record, sandbox: parsers.Sandbox, document_id: str) -> None:
    Parsing(record, sandbox, heartbeat_s=0.1, lease_s=30).parse(document_id)


def test_an_upload_becomes_text_and_wakes_the_jobs_that_waited(
    record: Record, story: Story, ring: Doorbell, sandbox: parsers.Sandbox
) -> None:
    document = story.upload(b"The tower has 214 steps.")
    job = story.ask(document)
    parse(record, sandbox, document.id)
    parsed = record.documents.get(document.id)
    assert (parsed.status, parsed.parser_version) == (DocumentStatus.READY, parsers.PARSER_VERSION)
    text = record.files.text(parsed.sha256, parsers.PARSER_VERSION)
    assert text is not None
    assert b"214 steps" in text
    assert (READ, MODEL, job.id) in ring.messages


def test_what_no_parser_reads_fails_with_its_code(
    record: Record, story: Story, sandbox: parsers.Sandbox
) -> None:
    document = story.upload(b"\x7fELF" + bytes(100))
    parse(record, sandbox, document.id)
    failed = record.documents.get(document.id)
    assert failed.status == DocumentStatus.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "unsupported"


def test_a_document_deleted_while_it_is_parsed_leaves_no_text(
    record: Record, story: Story, tmp_path: Path
) -> None:
    document = story.upload(b"Forget me.")
    sandbox = Deleting(record, document.id)
    parse(record, sandbox, document.id)
    sandbox.close()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
