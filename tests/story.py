"""The usual course of documents and jobs, told in short, so that a test can begin in the middle."""

from __future__ import annotations

import itertools
from typing import Any

from jobs.ledger import Outcome
from jobs.params import NewJob, Work
from jobs.record import Record
from jobs.status import Kind
from jobs.tables import DeliveryRow, DocumentRow, JobRow

#: What a parser tells of a document.
FACTS: dict[str, Any] = {"pages_done": 3, "pages_total": 3, "media_type": "text/plain", "parser_version": "1"}
OUTCOME = Outcome(result={"text": "Yes."}, coverage={"pages_read": 3}, usage={"tokens": 7})
#: What a batch asks of each of its documents.
WORK = Work(kind=Kind.ASK, params={"question": "Is it so?"})
ERROR = {"code": "damaged", "message": "The file is damaged."}


class Story:
    """Moves through the public doors of a record."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._numbers = itertools.count()

    def upload(self, data: bytes | None = None, *, password: str | None = None) -> DocumentRow:
        """A document that waits for its parser; new bytes unless some are given."""
        data = data or f"text {next(self._numbers)}".encode()
        return added(self._record, data, filename="a.txt", password=password)[0]

    def parse(self, document: DocumentRow) -> DocumentRow:
        """The document, its text stored and the jobs that waited for it rung."""
        claimed = self._record.documents.claim(document.id)
        assert claimed is not None
        self._record.ledger.documents_changed(self._record.documents.ready(claimed, FACTS))
        return self._record.documents.get(document.id)

    def fail_to_parse(self, document: DocumentRow) -> DocumentRow:
        """The document, which has no text to give."""
        claimed = self._record.documents.claim(document.id)
        assert claimed is not None
        self._record.ledger.documents_changed(self._record.documents.fail(claimed, ERROR))
        return self._record.documents.get(document.id)

    def read_document(self) -> DocumentRow:
        """A new document whose text is there."""
        return self.parse(self.upload())

    def ask(self, *documents: DocumentRow, **work: Any) -> JobRow:
        """A queued job on documents, or on a new one that is ready."""
        chosen = documents or (self.read_document(),)
        return self._record.ledger.add(question(*chosen, **work))[0]

    def begin(self, job: JobRow | None = None, *, worker: str = "card-0") -> JobRow:
        """A job in a worker's hands."""
        claimed = self._record.ledger.claim((job or self.ask()).id, worker_id=worker)
        assert claimed is not None
        return claimed

    def deliver(self) -> DeliveryRow:
        """A delivery in a worker's hands, for a job that is done."""
        job = self.begin(self.ask(webhook_url="https://example.org/hook"))
        self._record.ledger.complete(job, OUTCOME)
        [delivery] = self._record.deliveries.of_job(job.id)
        claimed = self._record.deliveries.claim(delivery.id)
        assert claimed is not None
        return claimed


def added(record: Record, data: bytes, **more: Any) -> tuple[DocumentRow, bool]:
    """An upload of these bytes, recorded; the row, and whether it is new."""
    with record.files.incoming() as file:
        file.write(data)
        return record.documents.add(file, **{"filename": "a.pdf", "password": None} | more)


def question(*documents: DocumentRow, **work: Any) -> NewJob:
    """The body of a request for an answer from documents."""
    ids = [document.id for document in documents]
    return NewJob(kind=WORK.kind, params=WORK.params, document_ids=ids, **work)
