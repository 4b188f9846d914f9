"""Documents: uploads on their way to pages of text.

A file is there as long as its document is: it gets its name in the transaction that records the document, and
is removed in one that leaves no document of its bytes. Both hold a lock on the SHA-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, false, select
from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.errors import DocumentInUse, DocumentNotFound
from jobs.files import FileStore, Incoming
from jobs.idempotency import Key, once
from jobs.ids import new_id
from jobs.lease import claim, held, hold
from jobs.page import Page, page_of
from jobs.queues import CPU, PARSE
from jobs.status import UNFINISHED, DocumentStatus, Status
from jobs.tables import DocumentRow, JobDocumentRow, JobRow

#: Ids in one question to the database; it takes some ten thousand.
_ASKED_AT_ONCE = 1_000


class Documents:
    """The documents in the record, and their files."""

    def __init__(
        self, database: Database, files: FileStore, *, lease_s: float, parser_version: str | None = None
    ) -> None:
        """Text of other parsers than `parser_version` is made anew when it is asked for; None: never."""
        self._database = database
        self._files = files
        self._lease_s = lease_s
        self._parser_version = parser_version

    def add(
        self, file: Incoming, *, filename: str, password: str | None, key: Key | None = None
    ) -> tuple[DocumentRow, bool]:
        """Keep an upload, record it and ask for its text; the row, and whether it is new.

        The same bytes are the same document. One that failed or was read by older parsers is read again.

        Raises:
            UploadEmpty, StorageFull: it cannot be kept.
            NotFound: the key's first request made a document that was deleted since.
        """
        stored = file.seal()  # before the transaction, which others wait for
        with self._database.transaction() as session:
            new = False

            def make() -> DocumentRow:
                nonlocal new
                self._alone(session, stored.sha256)
                file.keep()
                row = session.scalar(
                    select(DocumentRow).where(DocumentRow.sha256 == stored.sha256).with_for_update()
                )
                if row is None:
                    new = True
                    row = DocumentRow(
                        id=new_id("doc"),
                        sha256=stored.sha256,
                        filename=filename[-255:],
                        size_bytes=stored.size_bytes,
                        password=password,
                        created_at=self._database.clock(),
                    )
                    session.add(row)
                    session.flush()
                    self._database.post(session, PARSE, CPU, row.id)
                elif row.status == DocumentStatus.FAILED or self._outdated(row):
                    self.parse_again(session, row, password=password)
                elif row.status == DocumentStatus.QUEUED:
                    row.password = password or row.password
                return row

            row, _ = once(self._database, session, key, DocumentRow, make)
            return row, new

    def parse_again(self, session: Session, row: DocumentRow, *, password: str | None = None) -> None:
        """Queue a document once more, within the caller's transaction, which has locked it."""
        row.status = DocumentStatus.QUEUED
        row.tries = 0
        row.error = None
        row.pages_done = 0
        row.password = password
        self._database.post(session, PARSE, CPU, row.id)

    def get(self, document_id: str) -> DocumentRow:
        """One document.

        Raises:
            DocumentNotFound: no such id.
        """
        with self._database.reading() as session:
            return self._found(session.get(DocumentRow, document_id), document_id)

    def several(self, document_ids: Iterable[str]) -> Sequence[DocumentRow]:
        """Those of the documents that exist, in any order."""
        return list(self._among(DocumentRow, document_ids))

    def existing(self, document_ids: Iterable[str]) -> set[str]:
        """Those of the ids that documents have."""
        return set(self._among(DocumentRow.id, document_ids))

    def _among(self, what: Any, document_ids: Iterable[str]) -> Iterator[Any]:
        """Rows of these documents, or a column of them; a database takes so many ids at once."""
        ids = list(document_ids)
        with self._database.reading() as session:
            for at in range(0, len(ids), _ASKED_AT_ONCE):
                yield from session.scalars(
                    select(what).where(DocumentRow.id.in_(ids[at : at + _ASKED_AT_ONCE]))
                )

    def locked(
        self, session: Session, document_ids: Iterable[str], *, to_read: bool = False
    ) -> list[DocumentRow]:
        """The documents, in the order asked for, none of which can change until the transaction ends.

        Raises:
            DocumentNotFound: one does not exist.
        """
        wanted = list(document_ids)
        rows = session.scalars(
            select(DocumentRow)
            .where(DocumentRow.id.in_(wanted))
            .order_by(DocumentRow.id)
            .with_for_update(read=to_read)
        )
        found = {row.id: row for row in rows}
        return [self._found(found.get(document_id), document_id) for document_id in wanted]

    def outdated(self, document_ids: Sequence[str]) -> ColumnElement[bool]:
        """Whether older parsers read one of the documents, to be asked before `current`."""
        if self._parser_version is None:
            return false()
        return exists().where(
            DocumentRow.id.in_(document_ids),
            DocumentRow.status == DocumentStatus.READY,
            DocumentRow.parser_version != self._parser_version,
        )

    def current(self, session: Session, document_ids: Sequence[str], *, outdated: bool) -> list[DocumentRow]:
        """What `locked` gives, to read; documents that older parsers read are queued to be read again."""
        rows = self.locked(session, document_ids, to_read=not outdated)
        for row in rows:
            if outdated and self._outdated(row):
                self.parse_again(session, row)
        return rows

    def page(self, *, limit: int, after: str | None) -> Page[DocumentRow]:
        """Documents, newest first."""
        with self._database.reading() as session:
            return page_of(session, select(DocumentRow), DocumentRow.id, limit=limit, after=after)

    def delete(self, document_id: str) -> None:
        """Forget a document, its files and the finished jobs on it.

        The files go first: after a crash in between, what is left is a document to delete once more.

        Raises:
            DocumentNotFound: no such id.
            DocumentInUse: an unfinished job needs it.
        """
        sha256 = self.get(document_id).sha256
        with self._database.transaction() as session:
            self._alone(session, sha256)
            [row] = self.locked(session, [document_id])
            jobs = JobRow.id.in_(
                select(JobDocumentRow.job_id).where(JobDocumentRow.document_id == document_id)
            )
            if session.scalar(select(JobRow.id).where(jobs, JobRow.status.in_(UNFINISHED)).limit(1)):
                raise DocumentInUse
            session.execute(delete(JobRow).where(jobs), execution_options={"synchronize_session": False})
            self._database.drop(session, document_id)
            session.delete(row)
            session.flush()
            self._files.delete(sha256)

    def discard(self, sha256: str) -> None:
        """Remove the files of bytes that no document has."""
        with self._database.transaction() as session:
            self._alone(session, sha256)
            if session.scalar(select(DocumentRow.id).where(DocumentRow.sha256 == sha256)) is None:
                self._files.delete(sha256)

    def claim(self, document_id: str) -> DocumentRow | None:
        """Take a document to parse it."""
        with self._database.transaction() as session:
            return claim(self._database, session, DocumentRow, document_id, self._lease_s)

    def beat(self, row: DocumentRow, *, pages_done: int, pages_total: int | None) -> None:
        """Renew the lease and tell how far the parser is.

        Raises:
            LeaseLost: another worker has the document.
        """
        with self._database.transaction() as session:
            kept = held(session, row)
            hold(self._database, kept, self._lease_s)
            kept.pages_done = pages_done
            kept.pages_total = pages_total

    def ready(self, row: DocumentRow, facts: dict[str, Any]) -> Sequence[str]:
        """The text is stored: note the parser's facts; ids of jobs that waited for this document."""
        with self._database.transaction() as session:
            kept = held(session, row)
            for name, value in facts.items():
                setattr(kept, name, value)
            kept.parser_tried = kept.parser_version
            kept.status = DocumentStatus.READY
            kept.lease_until = None
            kept.password = None
            kept.parsed_at = self._database.clock()
            return self._waiting(session, row.id)

    def fail(self, row: DocumentRow, error: dict[str, Any]) -> Sequence[str]:
        """The document cannot be read: note why; ids of jobs that waited for it."""
        with self._database.transaction() as session:
            kept = held(session, row)
            self.set_failed(kept, error)
            return self._waiting(session, row.id)

    def set_failed(self, row: DocumentRow, error: dict[str, Any]) -> None:
        """Mark a row failed, within the caller's transaction; what older parsers read keeps their text."""
        row.lease_until = None
        row.password = None
        if row.parser_version is None:
            row.status = DocumentStatus.FAILED
            row.error = error
            return
        row.status = DocumentStatus.READY
        row.parser_tried = self._parser_version
        row.pages_done = row.pages_total or 0
        row.warnings = [
            *(row.warnings or []),
            f"It could not be read anew ({error['code']}); the text is that of parsers {row.parser_version}.",
        ]

    def _alone(self, session: Session, sha256: str) -> None:
        """Nobody else gives or takes a name to files of these bytes until the transaction ends."""
        self._database.alone(session, f"upload {sha256}")

    def _outdated(self, row: DocumentRow) -> bool:
        """Whether the text was made by other parsers than today's, and these have not tried yet."""
        tried = {row.parser_version, row.parser_tried, None}
        return row.status == DocumentStatus.READY and self._parser_version not in tried

    @staticmethod
    def _found(row: DocumentRow | None, document_id: str) -> DocumentRow:
        if row is None:
            raise DocumentNotFound(
                f"There is no document {document_id!r}. Upload it first: POST /v1/documents."
            )
        return row

    @staticmethod
    def _waiting(session: Session, document_id: str) -> Sequence[str]:
        return session.scalars(
            select(JobRow.id)
            .join(JobDocumentRow)
            .where(JobDocumentRow.document_id == document_id, JobRow.status == Status.QUEUED)
        ).all()
