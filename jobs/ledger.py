"""The ledger of jobs: asked, claimed, told how far, finished; each move is one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, defer

from jobs.database import Database
from jobs.deliveries import Deliveries
from jobs.documents import Documents
from jobs.errors import BatchNotFound, DocumentFailed, IllegalMove, JobNotFound, QueueFull
from jobs.idempotency import Key, once
from jobs.ids import new_id
from jobs.lease import held, hold, taken
from jobs.page import Page, page_of
from jobs.params import NewJob, Work
from jobs.placement import best
from jobs.queues import MODEL, READ, own_queue
from jobs.status import MOVES, UNFINISHED, UNSUCCESSFUL, DocumentStatus, Phase, Status
from jobs.tables import BatchRow, DocumentRow, JobDocumentRow, JobRow, OutboxRow, WorkerRow

#: Results may be megabytes each; where one is missed by mistake, an exception says so.
_WITHOUT_RESULT = defer(JobRow.result, raiseload=True)
_WAITING = select(func.count()).where(JobRow.status == Status.QUEUED).scalar_subquery()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; what a worker tells with each heartbeat."""

    phase: Phase
    pages_done: int = 0
    tokens_done: int = 0
    tokens_total: int | None = None
    eta_s: float | None = None
    draft: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished job leaves."""

    result: dict[str, Any]
    coverage: dict[str, Any]
    usage: dict[str, Any]


class Ledger:
    """The jobs in the record."""

    def __init__(
        self,
        database: Database,
        documents: Documents,
        deliveries: Deliveries,
        *,
        lease_s: float,
        max_queued: int,
        job_timeout_s: float,
        jobs_per_card: int,
    ) -> None:
        self._database = database
        self._documents = documents
        self._deliveries = deliveries
        self._lease_s = lease_s
        self._max_queued = max_queued
        self._job_timeout_s = job_timeout_s
        self._jobs_per_card = jobs_per_card

    # -- asked ------------------------------------------------------------------------------------------

    def add(self, new: NewJob, *, key: Key | None = None) -> tuple[JobRow, bool]:
        """Record a job and ring for it, or for its documents first; the row, and whether a key replayed it.

        Raises:
            DocumentNotFound, DocumentFailed: it cannot be done.
            QueueFull: too many jobs wait.
            NotFound: the key's first request made a job that was deleted since.
        """
        with self._database.transaction() as session:
            return once(
                self._database, session, key, JobRow, lambda: self._add(session, new, [new.document_ids])[0]
            )

    def add_batch(
        self, work: Work, document_ids: Sequence[str], *, key: Key | None = None
    ) -> tuple[BatchRow, bool]:
        """The same job for each document, all or none; raises what `add` raises."""
        with self._database.transaction() as session:

            def make() -> BatchRow:
                batch = BatchRow(id=new_id("batch"), kind=work.kind, created_at=self._database.clock())
                session.add(batch)
                session.flush()
                self._add(session, work, [[document_id] for document_id in document_ids], batch.id)
                return batch

            return once(self._database, session, key, BatchRow, make)

    def _add(
        self, session: Session, work: Work, groups: Sequence[Sequence[str]], batch_id: str | None = None
    ) -> list[JobRow]:
        """A job for each group of documents. None of these can become ready unnoticed until the commit."""
        wanted = list(chain.from_iterable(groups))
        waiting, outdated = session.execute(select(_WAITING, self._documents.outdated(wanted))).one()
        if waiting + len(groups) > self._max_queued:
            raise QueueFull(
                f"{waiting:,} jobs are waiting; this server takes {self._max_queued:,}. Try again later."
            )
        rows = self._documents.current(session, wanted, outdated=outdated)
        documents = {row.id: self._readable(row) for row in rows}
        params = work.checked().model_dump(mode="json", by_alias=True)
        timeout_s = work.timeout_s or self._job_timeout_s
        jobs = []
        for group in groups:
            now = self._database.clock()
            job = JobRow(
                id=new_id("job"),
                kind=work.kind,
                batch_id=batch_id,
                params=params,
                meta=work.metadata,
                webhook_url=work.webhook_url,
                created_at=now,
                timeout_s=timeout_s,
                expires_at=now + timedelta(seconds=timeout_s),
                document_ids=list(group),
                links=[JobDocumentRow(position=at, document_id=id_) for at, id_ in enumerate(group)],
            )
            session.add(job)
            self._ring_if_ready(session, job, [documents[id_] for id_ in group])
            jobs.append(job)
        session.flush()
        return jobs

    @staticmethod
    def _readable(row: DocumentRow) -> DocumentRow:
        if row.status == DocumentStatus.FAILED:
            reason = (row.error or {}).get("message", "")
            raise DocumentFailed(f"The document {row.id} ({row.filename}) could not be parsed: {reason}")
        return row

    def _ring_if_ready(self, session: Session, job: JobRow, documents: Sequence[DocumentRow]) -> None:
        """Ring for a queued job whose documents are all there; fail it if one never will be."""
        failed = next((row for row in documents if row.status == DocumentStatus.FAILED), None)
        if failed is not None:
            error = {**(failed.error or {}), "document_id": failed.id}
            if len(documents) > 1:
                error["message"] = f"{failed.filename}: {error.get('message', '')}"
            self._finish(session, job, Status.FAILED, error=error)
        elif all(row.status == DocumentStatus.READY for row in documents):
            job.phase = None
            job.pages_total = sum(row.pages_total or 0 for row in documents)
            self._database.post(session, READ, MODEL, job.id)
        else:
            job.phase = Phase.PARSING

    def documents_changed(self, job_ids: Iterable[str]) -> None:
        """Look again at jobs that waited for a document: ring for them, or fail them."""
        for job_id in job_ids:
            with self._database.transaction() as session:
                job = session.get(JobRow, job_id, with_for_update=True)
                if job is None or job.status != Status.QUEUED or job.phase != Phase.PARSING:
                    continue
                rows = session.scalars(select(DocumentRow).where(DocumentRow.id.in_(job.document_ids)))
                documents = {row.id: row for row in rows}
                self._ring_if_ready(session, job, [documents[id_] for id_ in job.document_ids])
                if job.phase != Phase.PARSING:
                    job.version += 1

    # -- looked at --------------------------------------------------------------------------------------

    def get(self, job_id: str) -> JobRow:
        """One job.

        Raises:
            JobNotFound: no such id.
        """
        with self._database.reading() as session:
            return self._found(session.get(JobRow, job_id), job_id)

    def version(self, job_id: str) -> tuple[int, Status] | None:
        """The version and status of a job, cheaply; None if there is no such job."""
        with self._database.reading() as session:
            found = session.execute(select(JobRow.version, JobRow.status).where(JobRow.id == job_id)).first()
        return None if found is None else (found[0], Status(found[1]))

    def page(
        self,
        *,
        limit: int,
        after: str | None,
        status: Status | None = None,
        batch_id: str | None = None,
        results: bool = False,
    ) -> Page[JobRow]:
        """Jobs, newest first; with their `results` only where these are asked for."""
        query = select(JobRow) if results else select(JobRow).options(_WITHOUT_RESULT)
        if status is not None:
            query = query.where(JobRow.status == status)
        if batch_id is not None:
            query = query.where(JobRow.batch_id == batch_id)
        with self._database.reading() as session:
            return page_of(session, query, JobRow.id, limit=limit, after=after)

    def batch(self, batch_id: str) -> tuple[BatchRow, dict[Status, int]]:
        """A batch, and how many of its jobs stand where.

        Raises:
            BatchNotFound: no such id.
        """
        with self._database.reading() as session:
            row = session.get(BatchRow, batch_id)
            if row is None:
                raise BatchNotFound
            counts = session.execute(
                select(JobRow.status, func.count()).where(JobRow.batch_id == batch_id).group_by(JobRow.status)
            )
            return row, {Status(status): count for status, count in counts}

    def counts(self) -> dict[Status, int]:
        """How many jobs are not finished, by status."""
        with self._database.reading() as session:
            found = session.execute(
                select(JobRow.status, func.count())
                .where(JobRow.status.in_(UNFINISHED))
                .group_by(JobRow.status)
            )
            return {Status(status): count for status, count in found}

    def queue_position(self, row: JobRow) -> int | None:
        """1 for the next job in the queue, which is in the order of ringing; None for one that does not wait.

        A job that waits for a document has not been rung for and comes after all that have.
        """
        if row.status != Status.QUEUED:
            return None
        before = select(func.count()).where(OutboxRow.task == READ)
        unheard = select(func.count()).where(
            JobRow.status == Status.QUEUED, JobRow.phase == Phase.PARSING, JobRow.id <= row.id
        )
        with self._database.reading() as session:
            if row.phase == Phase.PARSING:
                return (session.scalar(before) or 0) + (session.scalar(unheard) or 1)
            own = select(OutboxRow.id).where(OutboxRow.subject_id == row.id).scalar_subquery()
            return session.scalar(before.where(OutboxRow.id <= own)) or 1

    def conversation(self, row: JobRow) -> list[JobRow]:
        """The completed chat jobs that `row` follows, oldest first.

        Raises:
            JobNotFound: one of them was deleted since.
        """
        turns: list[JobRow] = []
        with self._database.reading() as session:
            while previous := (turns[-1] if turns else row).params.get("previous_job_id"):
                turn = session.get(JobRow, previous)
                if turn is None:
                    raise JobNotFound(
                        f"The earlier turn {previous!r} of this chat was removed. "
                        "Leave `previous_job_id` out to begin a new one."
                    )
                turns.append(turn)
        return turns[::-1]

    # -- moved by people --------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> JobRow:
        """Stop a job: at once if it waits, within one step of the model if it runs. Again is harmless.

        Raises:
            JobNotFound: no such id.
            IllegalMove: it is finished already.
        """
        with self._database.transaction() as session:
            job = self._locked(session, job_id)
            if job.status == Status.QUEUED:
                self._database.drop(session, job.id)
                self._finish(session, job, Status.CANCELLED)
            elif job.status == Status.IN_PROGRESS:
                self._move(job, Status.CANCELLING)
            elif job.status not in {Status.CANCELLING, Status.CANCELLED}:
                raise IllegalMove(f"The job is {job.status} already; there is nothing to cancel.")
            return job

    def retry(self, job_id: str, *, key: Key | None = None) -> JobRow:
        """Queue a failed, cancelled or expired job again, with fresh tries.

        Raises:
            JobNotFound: no such id.
            IllegalMove: it is not in one of these statuses.
        """
        with self._database.transaction() as session:

            def make() -> JobRow:
                links = select(JobDocumentRow.document_id).where(JobDocumentRow.job_id == job_id)
                documents = self._documents.locked(session, session.scalars(links))
                job = self._locked(session, job_id)
                if job.status not in UNSUCCESSFUL:
                    raise IllegalMove(
                        f"The job is {job.status}; only failed, cancelled or expired ones can be retried."
                    )
                self._move(job, Status.QUEUED)
                job.tries = 0
                job.error = job.finished_at = job.started_at = job.worker_id = None
                job.pages_done = job.tokens_done = 0
                job.expires_at = self._database.clock() + timedelta(seconds=job.timeout_s)
                for row in documents:
                    if row.status == DocumentStatus.FAILED:
                        self._documents.parse_again(session, row)
                self._ring_if_ready(session, job, documents)
                return job

            return once(self._database, session, key, JobRow, make)[0]

    # -- moved by workers -------------------------------------------------------------------------------

    def claim(self, job_id: str, *, worker_id: str) -> JobRow | None:
        """Take a queued job; None if it is not there to be taken, or is passed on to a better worker."""
        with self._database.transaction() as session:
            others = exists().where(WorkerRow.id != worker_id)
            locked = select(JobRow, others).where(JobRow.id == job_id).with_for_update(of=JobRow)
            row, choice = session.execute(locked).one_or_none() or (None, False)
            if row is not None and choice and self._passed_on(session, row, worker_id):
                return None
            job = taken(self._database, session, row, job_id, self._lease_s)
            if job is None:
                return None
            if job.expires_at <= self._database.clock():
                self._finish(session, job, Status.EXPIRED)
                return None
            job.worker_id = worker_id
            job.phase = Phase.READING
            job.started_at = job.started_at or self._database.clock()
            job.version += 1
            return job

    def _passed_on(self, session: Session, job: JobRow, worker_id: str) -> bool:
        """Whether it is rung for at a better worker now. What was rung for again is kept by who takes it."""
        first = OutboxRow.queue == MODEL, OutboxRow.rung_at == OutboxRow.due_at
        message = session.scalar(select(OutboxRow).where(OutboxRow.subject_id == job.id, *first))
        if message is None:
            return False
        better = best(session, job, seats=self._jobs_per_card, now=self._database.clock(), asking=worker_id)
        if better is None or better == worker_id:
            return False
        self._database.redirect(session, message, own_queue(better))
        return True

    def beat(self, row: JobRow, progress: Progress) -> bool:
        """Renew the lease and tell how far the job is; True if somebody wants it cancelled.

        Raises:
            LeaseLost: another worker has the job.
        """
        with self._database.transaction() as session:
            job = held(session, row)
            for name in ("phase", "pages_done", "tokens_done", "eta_s", "draft"):
                setattr(job, name, getattr(progress, name))
            job.tokens_total = progress.tokens_total or job.tokens_total
            if session.is_modified(job):
                job.version += 1
            hold(self._database, job, self._lease_s)
            return job.status == Status.CANCELLING

    def complete(self, row: JobRow, outcome: Outcome) -> None:
        """The answer is there.

        Raises:
            LeaseLost: another worker has the job.
        """
        with self._database.transaction() as session:
            job = held(session, row)
            job.result, job.coverage, job.usage = outcome.result, outcome.coverage, outcome.usage
            job.pages_done = job.pages_total or job.pages_done
            job.tokens_done = job.tokens_total or job.tokens_done
            self._finish(session, job, Status.COMPLETED)

    def end(self, row: JobRow, status: Status, *, error: dict[str, Any] | None = None) -> None:
        """The job failed, was cancelled, or ran out of time.

        Raises:
            LeaseLost: another worker has the job.
            IllegalMove: `status` is not such an end.
        """
        if status not in UNSUCCESSFUL:
            raise IllegalMove(f"A job does not end as {status}.")
        with self._database.transaction() as session:
            self._finish(session, held(session, row), status, error=error)

    def give_back(self, row: JobRow) -> None:
        """The worker is going down: queue the job again; this try does not count.

        Raises:
            LeaseLost: another worker has the job.
        """
        with self._database.transaction() as session:
            job = held(session, row)
            job.tries -= 1
            self._requeue(session, job)

    # -- moved by the sweep -----------------------------------------------------------------------------

    def recover(self, session: Session, job: JobRow, *, max_attempts: int) -> None:
        """A lease ran out: queue the job again, or give up after too many tries."""
        if job.status == Status.IN_PROGRESS and job.tries >= max_attempts:
            self._finish(
                session,
                job,
                Status.FAILED,
                error={
                    "code": "attempts_exhausted",
                    "message": f"The worker died {job.tries} times while at this job. "
                    "Look at the worker's log, then retry the job.",
                },
            )
        else:
            self._requeue(session, job)

    def free_queue(self, session: Session, job_id: str) -> str | None:
        """Where to ring for a job that nobody took, as some worker holds the message and has no seat free.

        None where no other has one.
        """
        job = session.get(JobRow, job_id)
        free = job and best(session, job, seats=self._jobs_per_card, now=self._database.clock())
        return own_queue(free) if free else None

    def expire(self, session: Session, job: JobRow) -> None:
        """Nobody got to the job in time."""
        self._database.drop(session, job.id)
        self._finish(session, job, Status.EXPIRED)

    # -- inside -----------------------------------------------------------------------------------------

    def _locked(self, session: Session, job_id: str) -> JobRow:
        return self._found(session.get(JobRow, job_id, with_for_update=True), job_id)

    @staticmethod
    def _found(row: JobRow | None, job_id: str) -> JobRow:
        if row is None:
            raise JobNotFound(f"There is no job {job_id!r}. List them: GET /v1/jobs.")
        return row

    @staticmethod
    def _move(job: JobRow, status: Status) -> None:
        if status not in MOVES[Status(job.status)]:
            raise IllegalMove(f"A job cannot go from {job.status} to {status}.")
        job.status = status
        job.version += 1

    def _requeue(self, session: Session, job: JobRow) -> None:
        """Queue again what a worker had, or finish what was being cancelled."""
        if job.status == Status.CANCELLING:
            self._finish(session, job, Status.CANCELLED)
            return
        self._move(job, Status.QUEUED)
        job.lease_until = job.phase = job.worker_id = job.draft = job.eta_s = None
        job.pages_done = job.tokens_done = 0
        self._database.post(session, READ, MODEL, job.id)

    def _finish(
        self, session: Session, job: JobRow, status: Status, *, error: dict[str, Any] | None = None
    ) -> None:
        """Every end of a job comes through here: status, times, webhook, in the caller's transaction."""
        self._move(job, status)
        job.phase = job.lease_until = job.draft = job.eta_s = None
        job.error = error
        job.finished_at = self._database.clock()
        if job.webhook_url:
            self._deliveries.add(session, job)
