"""Deliveries: webhooks written with the result they tell of, and every try to bring them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.errors import DeliveryNotFound, IllegalMove
from jobs.idempotency import Key, once
from jobs.ids import new_id
from jobs.lease import claim, held
from jobs.objects import Job
from jobs.queues import DELIVER, QUICK
from jobs.status import DeliveryStatus
from jobs.tables import DeliveryRow, JobRow

#: Seconds between tries, about three days in all (Standard Webhooks, "Deliverability and reliability").
RETRY_AFTER_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)


class Deliveries:
    """The webhook deliveries in the record."""

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database = database
        self._lease_s = lease_s

    def add(self, session: Session, job: JobRow) -> None:
        """Write a delivery in the transaction that finishes the job."""
        now = self._database.clock()
        assert job.webhook_url is not None
        row = DeliveryRow(
            id=new_id("msg"),
            job_id=job.id,
            url=job.webhook_url,
            payload={
                "type": f"job.{job.status}",
                "timestamp": now.isoformat().replace("+00:00", "Z"),
                "data": Job.of(job).model_dump(mode="json"),
            },
            log=[],
            created_at=now,
        )
        session.add(row)
        session.flush()
        self._database.post(session, DELIVER, QUICK, row.id)

    def of_job(self, job_id: str) -> Sequence[DeliveryRow]:
        """Every delivery for a job, oldest first."""
        with self._database.reading() as session:
            return session.scalars(
                select(DeliveryRow).where(DeliveryRow.job_id == job_id).order_by(DeliveryRow.id)
            ).all()

    def get(self, delivery_id: str) -> DeliveryRow:
        """One delivery.

        Raises:
            DeliveryNotFound: no such id.
        """
        with self._database.reading() as session:
            row = session.get(DeliveryRow, delivery_id)
        if row is None:
            raise DeliveryNotFound
        return row

    def replay(self, delivery_id: str, *, key: Key | None = None) -> DeliveryRow:
        """Send a delivery again, delivered or not, under the same message id.

        Raises:
            DeliveryNotFound: no such id.
            IllegalMove: it is being sent right now.
        """
        with self._database.transaction() as session:

            def make() -> DeliveryRow:
                row = session.get(DeliveryRow, delivery_id, with_for_update=True)
                if row is None:
                    raise DeliveryNotFound
                if row.status == DeliveryStatus.IN_PROGRESS:
                    raise IllegalMove("The delivery is being sent right now.")
                self._database.drop(session, row.id)
                row.status = DeliveryStatus.QUEUED
                row.tries = 0
                self._database.post(session, DELIVER, QUICK, row.id)
                return row

            return once(self._database, session, key, DeliveryRow, make)[0]

    def claim(self, delivery_id: str) -> DeliveryRow | None:
        """Take a delivery to send it."""
        with self._database.transaction() as session:
            return claim(self._database, session, DeliveryRow, delivery_id, self._lease_s)

    def delivered(self, row: DeliveryRow, entry: dict[str, Any]) -> None:
        """The receiver took it."""
        with self._database.transaction() as session:
            kept = held(session, row)
            kept.log = [*kept.log, entry]
            kept.status = DeliveryStatus.DELIVERED
            kept.lease_until = None
            kept.delivered_at = self._database.clock()

    def missed(self, row: DeliveryRow, entry: dict[str, Any], *, final: bool = False) -> None:
        """The receiver did not take it: try again later, unless that is `final` or was the last try."""
        with self._database.transaction() as session:
            kept = held(session, row)
            kept.log = [*kept.log, entry]
            self.later(session, kept, final=final)

    def later(self, session: Session, row: DeliveryRow, *, final: bool = False) -> None:
        """Queue the next try, or give up, within the caller's transaction."""
        row.lease_until = None
        if final or row.tries > len(RETRY_AFTER_S):
            row.status = DeliveryStatus.FAILED
            return
        row.status = DeliveryStatus.QUEUED
        wait = timedelta(seconds=RETRY_AFTER_S[row.tries - 1])
        self._database.post(session, DELIVER, QUICK, row.id, after=wait)
