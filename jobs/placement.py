"""Placement: which worker a job is for. The card that has read a document answers at once; any other has to
fetch what was stored of it, or to read it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from jobs.lease import HELD
from jobs.queues import own_queue
from jobs.status import Status
from jobs.tables import JobDocumentRow, JobRow, OutboxRow
from jobs.workers import ready

#: The newest jobs on a document tell who has it.
REMEMBERED = 32

_READ_IT = (Status.IN_PROGRESS, Status.COMPLETED)


def best(
    session: Session, job: JobRow, *, seats: int, now: datetime, asking: str | None = None
) -> str | None:
    """A worker with the job's first document and one of its `seats` free, else the one with the fewest jobs.

    `asking` has the message in hand: none is better that is only as good, and it keeps the job where no seat
    is free. Without it None is answered there, and where there are not two workers to choose from.
    """
    started = {worker.id: worker.started_at for worker in ready(session, now)}
    candidates = started.keys() | ({asking} if asking else set())
    if len(candidates) < 2:
        return asking
    load = _load(session, candidates)
    free = {worker for worker in candidates if load[worker] < seats}
    if not free:
        return asking
    # What a worker has read before it was started is on disk at best.
    have_it = {
        worker
        for worker, finished_at in _readers(session, job.document_ids[0])
        if worker in started and (finished_at is None or finished_at >= started[worker])
    }
    return min(free & have_it or free, key=lambda worker: (load[worker], worker != asking, worker))


def _load(session: Session, workers: Collection[str]) -> Counter[str | None]:
    """How many jobs each has, or is promised."""
    jobs = Counter(session.scalars(select(JobRow.worker_id).where(JobRow.status.in_(HELD))))
    of_queue = {own_queue(worker): worker for worker in workers}
    promised = session.scalars(select(OutboxRow.queue).where(OutboxRow.queue.in_(of_queue)))
    return jobs + Counter(of_queue[queue] for queue in promised)


def _readers(session: Session, document_id: str) -> Sequence[Row[str | None, datetime | None]]:
    """Who had the newest jobs that began with a document, and when they ended."""
    return session.execute(
        select(JobRow.worker_id, JobRow.finished_at)
        .join(JobDocumentRow, JobDocumentRow.job_id == JobRow.id)
        .where(JobDocumentRow.document_id == document_id, JobDocumentRow.position == 0)
        .where(JobRow.status.in_(_READ_IT))
        .order_by(JobDocumentRow.job_id.desc())
        .limit(REMEMBERED)
    ).all()
