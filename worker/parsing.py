"""The story of one upload: claimed, parsed in a child process, its text kept."""

from __future__ import annotations

import json
import time

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

import parsers
from jobs.errors import LeaseLost, StorageFull
from jobs.record import Record
from jobs.tables import DocumentRow
from worker.errors import InternalError
from worker.heart import Heart

log = structlog.get_logger()


class Parsing:
    """Turns uploads into text."""

    def __init__(
        self, record: Record, sandbox: parsers.Sandbox, *, heartbeat_s: float, lease_s: float
    ) -> None:
        self._record = record
        self._sandbox = sandbox
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s

    def close(self) -> None:
        """End the parsers that wait for the next file."""
        self._sandbox.close()

    def parse(self, document_id: str) -> None:
        """Parse a document, if it is still there to be parsed, and wake the jobs that waited for it."""
        documents = self._record.documents
        row = documents.claim(document_id)
        if row is None:
            return
        try:
            try:
                waiting = documents.ready(row, self._facts(row))
            except LeaseLost:
                raise
            except (parsers.ParseError, StorageFull) as exc:
                waiting = documents.fail(row, {"code": exc.code, "message": str(exc)})
                log.info("document_failed", document_id=row.id, code=exc.code)
            except (OperationalError, InterfaceError):  # no fault of the file's: the sweep queues it again
                log.warning("database_unavailable", document_id=row.id, attempt=row.attempt, exc_info=True)
                return
            except Exception as exc:
                log.error("parser_crashed", document_id=row.id, exc_info=exc)
                waiting = documents.fail(row, {"code": InternalError.code, "message": str(InternalError())})
            self._record.ledger.documents_changed(waiting)
        except LeaseLost:
            log.warning("document_lease_lost", document_id=row.id, attempt=row.attempt)
            documents.discard(row.sha256)  # it may have been deleted before its text was kept

    def _facts(self, row: DocumentRow) -> dict[str, object]:
        """Parse, keep the text, and tell what the row should say about it."""
        started = time.monotonic()
        pages: list[int | None] = [0, None]

        def on_page(done: int, total: int | None) -> None:
            pages[:] = [done, total]

        def beat() -> bool:
            self._record.documents.beat(row, pages_done=pages[0] or 0, pages_total=pages[1])
            return False

        with Heart(beat, lambda: None, every_s=self._heartbeat_s, lease_s=self._lease_s):
            document = self._sandbox.parse(
                self._record.files.upload(row.sha256),
                filename=row.filename,
                password=row.password,
                on_page=on_page,
            )
        text = json.dumps(document.to_json(), ensure_ascii=False).encode()
        self._record.files.save_text(row.sha256, parsers.PARSER_VERSION, text)
        log.info("document_parsed", document_id=row.id, pages=len(document.pages))
        return {
            "parse_s": round(time.monotonic() - started, 3),
            "media_type": document.media_type,
            "title": document.title,
            "paged": document.paged,
            "pages_done": len(document.pages),
            "pages_total": len(document.pages),
            "pages_without_text": document.blank_pages,
            "characters": document.characters,
            "warnings": list(document.warnings),
            "parser_version": parsers.PARSER_VERSION,
            "language": document.language,
            "ocr_pages": list(document.ocr_pages),
        }
