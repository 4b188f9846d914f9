"""Placement: which worker a job is for. The card that has read a document answers at once; any other has to
fetch what was stored of it, or to read it again."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.lease import HELD
from jobs.queues import own_queue
from jobs.tables import JobDocumentRow, JobRow, OutboxRow
from jobs.workers import ready

#: The newest jobs on a document tell who has it.
REMEMBERED = 32


def best(
    session: Session, job: JobRow, *, seats: int, now: datetime, asking: str | None = None
) -> str | None:
    """A worker with the job's first document and one of its `seats` free, else the one with the fewest jobs.

    `asking` has the message in hand, so none is better that is only as good. Else None, if no seat is free.
    """
    started = {worker.id: worker.started_at for worker in ready(session, now)}
    candidates = started.keys() | ({asking} if asking else set())
    if candidates == {asking}:
        return asking
    jobs = Counter(session.scalars(select(JobRow.worker_id).where(JobRow.status.in_(HELD))))
    queues = session.scalars(select(OutboxRow.queue).where(OutboxRow.queue.in_(map(own_queue, started))))
    promised = Counter(queues)
    load = {worker: jobs[worker] + promised[own_queue(worker)] for worker in candidates}
    earlier = session.execute(
        select(JobRow.worker_id, JobRow.finished_at)
        .join(JobDocumentRow, JobDocumentRow.job_id == JobRow.id)
        .where(JobDocumentRow.document_id == job.document_ids[0], JobDocumentRow.position == 0)
        .where(JobRow.worker_id.is_not(None))
        .order_by(JobRow.id.desc())
        .limit(REMEMBERED)
    )
    have_it = {
        worker
        for worker, finished_at in earlier
        if worker in started and (finished_at is None or finished_at >= started[worker])
    }
    free = {worker for worker in candidates if load[worker] < seats or worker == asking}
    return min(
        free & have_it or free, key=lambda worker: (load[worker], worker != asking, worker), default=None
    )
