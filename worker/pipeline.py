"""The story of one job: claimed, read, answered, checked, written down."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from jobs.errors import JobNotFound, LeaseLost
from jobs.ledger import Outcome
from jobs.objects import Coverage
from jobs.params import params_of
from jobs.record import Record
from jobs.status import Kind, Status
from jobs.tables import JobRow
from worker.assignment import Assignment, Result
from worker.citations import count_verified
from worker.engine import Cancelled, Capacity, DeadlineExceeded, Engine, EngineError, EngineStopped
from worker.errors import DoesNotFit, InternalError, JobError, UnknownKind
from worker.heart import Heart
from worker.kinds import RUN, own
from worker.library import Layout, Library
from worker.prompts import Prompts
from worker.reader import Reader, Tally, deadline_in
from worker.room import room_for_answers
from worker.section import Section
from worker.tools import Caller, Desk

log = structlog.get_logger()


class Pipeline:
    """Runs jobs on one engine. Several threads may call `read` at once."""

    def __init__(
        self,
        record: Record,
        engine: Engine,
        prompts: Prompts,
        caller: Caller,
        *,
        worker_id: str,
        heartbeat_s: float,
        lease_s: float,
    ) -> None:
        self._record = record
        self._engine = engine
        self._prompts = prompts
        self._caller = caller
        self._library = Library(record, engine.tokenizer, system=prompts.system)
        self._worker_id = worker_id
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s

    def read(self, job_id: str) -> None:
        """Do a job, if it is still there to be done. Whatever happens is in the record afterwards."""
        ledger = self._record.ledger
        job = ledger.claim(job_id, worker_id=self._worker_id)
        if job is None:
            log.info("job_not_taken", job_id=job_id)
            return
        try:
            outcome = self._run(job)
            ledger.complete(job, outcome)
            log.info("job_completed", job_id=job.id, kind=job.kind, attempt=job.attempt)
        except LeaseLost:
            log.warning("job_lease_lost", job_id=job.id, attempt=job.attempt)
        except (OperationalError, InterfaceError):  # no fault of the job's: the sweep queues it again
            log.warning("database_unavailable", job_id=job.id, attempt=job.attempt, exc_info=True)
        except Exception as exc:
            self._end(job, exc)

    def forget_deleted(self) -> None:
        """Give up what is kept here and in the engine of documents that were deleted."""
        kept = self._library.document_ids | self._engine.owners()
        if gone := kept - self._record.documents.existing(kept):
            self._library.forget(gone)
            self._engine.forget(gone)
            log.info("documents_forgotten", document_ids=sorted(gone))

    def _end(self, job: JobRow, exc: Exception) -> None:
        """Write down why a job ended without a result."""
        ledger = self._record.ledger
        try:
            match exc:
                case EngineStopped() if self._engine.failed:
                    log.error("engine_failed", job_id=job.id)  # counts as a death: the lease runs out
                case EngineStopped():
                    ledger.give_back(job)
                    log.info("job_given_back", job_id=job.id)
                case Cancelled():
                    ledger.end(job, Status.CANCELLED)
                    log.info("job_cancelled", job_id=job.id)
                case DeadlineExceeded():
                    ledger.end(job, Status.EXPIRED, error=_error(exc))
                case EngineError() | JobError() | JobNotFound():  # a turn of a chat, removed meanwhile
                    ledger.end(job, Status.FAILED, error=_error(exc))
                    log.warning("job_failed", job_id=job.id, code=exc.code, reason=str(exc))
                case _:
                    log.error("job_crashed", job_id=job.id, exc_info=exc)
                    ledger.end(job, Status.FAILED, error=_error(InternalError()))
        except LeaseLost:
            log.warning("job_lease_lost", job_id=job.id, attempt=job.attempt)

    def _run(self, job: JobRow) -> Outcome:
        started = datetime.now(UTC)
        reader = Reader(self._engine, (), deadline_in((job.expires_at - started).total_seconds()))
        heart = Heart(
            lambda: self._record.ledger.beat(job, reader.progress()),
            reader.cancel,
            every_s=self._heartbeat_s,
            lease_s=self._lease_s,
        )
        params = params_of(job.kind).model_validate(job.params)
        room = self._engine.card.window // 16
        desk = Desk(params, self._caller, job_id=job.id, room=room)
        try:
            with heart:  # from here on: counting the tokens of a long document may outlast the lease
                layout = self._layout(job)
                reader.sections = layout.sections
                result = self._kind(job, Assignment(params, layout.sources, reader, self._prompts, desk))
        except Cancelled:
            if heart.lost:
                raise LeaseLost from None
            raise
        return Outcome(
            result={**result.to_json(), "calls": [call.to_json() for call in desk.calls]},
            coverage=dict(self._coverage(job, layout, reader.seen, result)),
            usage={"parse_s": layout.parse_s, **_usage(job, reader.tally, started)},
        )

    def _kind(self, job: JobRow, assignment: Assignment) -> Result:
        if job.kind in self._prompts.own_kinds:
            return own.run(assignment, job.kind)
        if job.kind not in RUN:
            raise UnknownKind(f"The worker has no prompt {job.kind}.md. {UnknownKind.__doc__}")
        run = RUN[Kind(job.kind)]
        if job.kind != Kind.CHAT:
            return run(assignment)
        history = [
            (turn.params["message"], turn.result["answers"][0]["text"])
            for turn in self._record.ledger.conversation(job)
            if turn.result
        ]
        return run(assignment, history)

    def _layout(self, job: JobRow) -> Layout:
        capacity = self._engine.capacity()
        fits = capacity.tokens_fit
        budget = fits - room_for_answers(fits)
        compare = job.kind == Kind.COMPARE
        layout = self._library.lay_out(job.document_ids, budget=budget, side_by_side=compare)
        tokens = layout.tokens  # counts them here, not in a heartbeat
        if len(layout.sections) > 1 and job.params.get("reading") == "whole":
            raise DoesNotFit(
                f"The documents have about {tokens:,} tokens; {budget:,} fit {self._engine.card.name} beside "
                f"the answer. Use `reading: auto` to read them in sections{_formats(capacity, tokens)}, or a "
                "model with a longer window."
            )
        return layout

    def _coverage(self, job: JobRow, layout: Layout, seen: Sequence[Section], result: Result) -> Coverage:
        sources, sections = layout.sources, layout.sections
        given, verified = count_verified(result.quoted())
        read = {(piece.source, piece.page) for section in seen for piece in section.pieces}
        card = self._engine.card
        return {
            "documents": [
                {
                    "document_id": source.document_id,
                    "filename": source.filename,
                    "paged": source.document.paged,
                    "pages_read": sum(1 for number, _ in read if number == index),
                    "pages_total": len(source.document.pages),
                    "pages_without_text": source.document.blank_pages,
                    "pages_from_ocr": list(source.document.ocr_pages),
                }
                for index, source in enumerate(sources)
            ],
            "tokens": layout.tokens,
            "reading": "whole" if len(sections) == 1 else "sections",
            "sections": len(sections),
            "model": f"{card.name}@{card.revision}",
            "weights": card.weights,
            "parser_versions": sorted({source.document.parser for source in sources}),
            "prompt": self._prompts.fingerprint(job.kind),
            "quotes_given": given,
            "quotes_verified": verified,
        }


def _usage(job: JobRow, tally: Tally, started: datetime) -> dict[str, Any]:
    finished = datetime.now(UTC)
    return {
        "tokens_read": tally.tokens_read,
        "tokens_reused": tally.tokens_reused,
        "tokens_written": tally.tokens_written,
        "wait_s": round((started - job.created_at).total_seconds() + tally.wait_s, 3),
        "read_s": round(tally.read_s, 3),
        "write_s": round(tally.write_s, 3),
        "check_s": round(tally.check_s, 3),
        "first_token_s": round(tally.first_token_s or 0.0, 3),
        "total_s": round((finished - job.created_at).total_seconds(), 3),
    }


def _error(exc: EngineError | JobError | JobNotFound) -> dict[str, Any]:
    return {"code": exc.code, "message": str(exc)}


def _formats(capacity: Capacity, tokens: int) -> str:
    """Where fewer bits for keys and values would do."""
    better = [f"{name} ({fit:,} tokens fit)" for name, fit in capacity.tokens_fit_in.items() if fit > tokens]
    return f", UNABRIDGED_KV_FORMAT={' or '.join(better)}" if better else ""
