"""Retention: finished jobs are kept for ever, or for as many days as the settings say."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import aliased

from jobs.database import Database
from jobs.status import FINAL, UNDELIVERED
from jobs.tables import BatchRow, DeliveryRow, JobRow

#: Jobs removed in one transaction; SQLite lets nobody else write meanwhile.
BATCH = 100


class Retention:
    """Run every hour by beat; two at once do no harm."""

    def __init__(self, database: Database, *, keep_jobs_days: float | None) -> None:
        """`keep_jobs_days`: from the end of a job; None keeps all."""
        self._database = database
        self._keep_jobs_days = keep_jobs_days

    def run(self) -> int:
        """Remove finished jobs that were kept long enough, with their deliveries; how many.

        A job stays while a webhook of it is to be delivered, and a turn of a chat while one that follows it
        does. A batch goes with its last job.
        """
        if self._keep_jobs_days is None:
            return 0
        before = self._database.clock() - timedelta(days=self._keep_jobs_days)
        removed = 0
        while some := self._remove_some(before):
            removed += some
        with self._database.transaction() as session:
            emptied = ~exists().where(JobRow.batch_id == BatchRow.id)
            session.execute(delete(BatchRow).where(BatchRow.created_at < before, emptied))
        return removed

    def _remove_some(self, before: datetime) -> int:
        undelivered = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.status.in_(UNDELIVERED))
        previous = aliased(JobRow).params["previous_job_id"].as_string()
        with self._database.transaction() as session:
            old = (
                select(JobRow.id)
                .where(JobRow.status.in_(FINAL), JobRow.finished_at < before, ~undelivered)
                .where(JobRow.id.not_in(select(previous).where(previous.is_not(None))))
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
            ids = set(session.scalars(old))
            deliveries = select(DeliveryRow.job_id, DeliveryRow.status).where(DeliveryRow.job_id.in_(ids))
            for job_id, status in session.execute(deliveries.with_for_update()):
                if status in UNDELIVERED:  # replayed meanwhile
                    ids.discard(job_id)
            session.execute(delete(JobRow).where(JobRow.id.in_(ids)))
        return len(ids)
