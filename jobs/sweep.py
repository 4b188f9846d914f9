"""The sweep: finds work whose worker died and messages nobody answered, and starts them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Select, and_, delete, exists, or_, select

from jobs.database import Database, Ring, ring_all
from jobs.deliveries import Deliveries
from jobs.documents import Documents
from jobs.lease import HELD, Leased
from jobs.ledger import Ledger
from jobs.queues import CPU, MODEL, PARSE, QUICK, READ, own_queue
from jobs.status import DocumentStatus, Phase, Status
from jobs.tables import DeliveryRow, DocumentRow, IdempotencyRow, JobDocumentRow, JobRow, OutboxRow, WorkerRow
from jobs.workers import GONE_AFTER_S, ready

#: Rows a sweep handles of each kind; what is left comes with the next.
BATCH = 500
#: A worker that lives and has a seat free takes what is meant for it within this.
PROMISED_S = 5.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did, counted."""

    recovered: int
    expired: int
    rung: int


class Sweep:
    """Run every few seconds by beat; two at once do no harm."""

    def __init__(
        self,
        database: Database,
        documents: Documents,
        ledger: Ledger,
        deliveries: Deliveries,
        *,
        ring: Ring,
        waiting: Callable[[str], int],
        max_attempts: int,
        ring_again_s: float,
        idempotency_s: float,
    ) -> None:
        self._database = database
        self._documents = documents
        self._ledger = ledger
        self._deliveries = deliveries
        self._ring = ring
        self._waiting = waiting
        self._max_attempts = max_attempts
        self._ring_again_s = ring_again_s
        self._idempotency_s = idempotency_s

    def run(self) -> Swept:
        """One sweep."""
        recovered = self._recover_documents() + self._recover_jobs() + self._recover_deliveries()
        expired = self._expire_jobs()
        self._wake_jobs()
        self._forget()
        self._call_back()
        return Swept(recovered, expired, self._ring_again())

    def _recover_documents(self) -> int:
        with self._database.transaction() as session:
            rows = session.scalars(self._dead(DocumentRow)).all()
            for row in rows:
                if row.tries >= self._max_attempts:
                    self._documents.set_failed(
                        row,
                        {
                            "code": "attempts_exhausted",
                            "message": f"The worker died {row.tries} times while parsing this file. "
                            "Look at the worker's log, then upload the file again.",
                        },
                    )
                else:
                    row.status, row.lease_until = DocumentStatus.QUEUED, None
                    self._database.post(session, PARSE, CPU, row.id)
        return len(rows)

    def _recover_jobs(self) -> int:
        with self._database.transaction() as session:
            rows = session.scalars(self._dead(JobRow)).all()
            for row in rows:
                self._ledger.recover(session, row, max_attempts=self._max_attempts)
        return len(rows)

    def _recover_deliveries(self) -> int:
        with self._database.transaction() as session:
            rows = session.scalars(self._dead(DeliveryRow)).all()
            for row in rows:
                self._deliveries.later(session, row)
        return len(rows)

    def _dead(self, table: type[Leased]) -> Select[Leased]:
        return (
            select(table)
            .where(table.status.in_(HELD), table.lease_until < self._database.clock())
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )

    def _expire_jobs(self) -> int:
        with self._database.transaction() as session:
            rows = session.scalars(
                select(JobRow)
                .where(JobRow.status == Status.QUEUED, JobRow.expires_at < self._database.clock())
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                self._ledger.expire(session, row)
        return len(rows)

    def _wake_jobs(self) -> None:
        """Jobs whose documents became ready or failed while the one who should have told died."""
        unparsed = exists().where(
            JobDocumentRow.job_id == JobRow.id,
            DocumentRow.id == JobDocumentRow.document_id,
            DocumentRow.status.in_([DocumentStatus.QUEUED, DocumentStatus.IN_PROGRESS]),
        )
        with self._database.reading() as session:
            ids = session.scalars(
                select(JobRow.id)
                .where(JobRow.status == Status.QUEUED, JobRow.phase == Phase.PARSING, ~unparsed)
                .limit(BATCH)
            ).all()
        self._ledger.documents_changed(ids)

    def _forget(self) -> None:
        now = self._database.clock()
        with self._database.transaction() as session:
            session.execute(
                delete(IdempotencyRow).where(
                    IdempotencyRow.created_at < now - timedelta(seconds=self._idempotency_s)
                )
            )
            session.execute(
                delete(WorkerRow).where(WorkerRow.seen_at < now - timedelta(seconds=10 * GONE_AFTER_S))
            )

    def _call_back(self) -> None:
        """What was meant for a worker that is gone, or does not take it, is for all again."""
        now = self._database.clock()
        with self._database.transaction() as session:
            own = [own_queue(worker.id) for worker in ready(session, now)]
            unheard = OutboxRow.rung_at < now - timedelta(seconds=PROMISED_S)
            rows = session.scalars(
                select(OutboxRow)
                .where(OutboxRow.task == READ, OutboxRow.queue != MODEL)
                .where(or_(OutboxRow.queue.not_in(own), unheard))
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
            for row in rows:
                row.queue, row.rung_at = MODEL, None

    def _ring_again(self) -> int:
        """Ring what became due, and, where the queue is empty, what was rung and not answered."""
        now = self._database.clock()
        empty = [queue for queue in (CPU, QUICK, MODEL) if not self._waiting(queue)]
        due = and_(OutboxRow.rung_at.is_(None), OutboxRow.due_at <= now)
        unheard = and_(
            OutboxRow.rung_at < now - timedelta(seconds=self._ring_again_s), OutboxRow.queue.in_(empty)
        )
        with self._database.transaction() as session:
            rows = session.scalars(
                select(OutboxRow)
                .where(or_(due, unheard))
                .order_by(OutboxRow.id)
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            ).all()
            free: str | None = MODEL  # None: there is no seat for one, so for none of the rest
            for row in rows:
                if free and row.queue == MODEL and row.rung_at:
                    free = self._ledger.free_queue(session, row.subject_id)
                    row.queue = free or MODEL
                row.rung_at = now
        ring_all(self._ring, [(row.task, row.queue, row.subject_id) for row in rows])
        return len(rows)
