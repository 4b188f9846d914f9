"""Workers: which cards hold a model now, and what fits on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.tables import WorkerRow

#: A worker not seen for this long is taken to be gone, seconds.
GONE_AFTER_S = 30.0


def ready(session: Session, now: datetime) -> Sequence[WorkerRow]:
    """The workers seen lately."""
    since = now - timedelta(seconds=GONE_AFTER_S)
    return session.scalars(select(WorkerRow).where(WorkerRow.seen_at >= since).order_by(WorkerRow.id)).all()


class Workers:
    """The model workers in the record."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def seen(self, worker_id: str, *, card: dict[str, Any], capacity: dict[str, Any]) -> None:
        """Say that a worker is ready; the first time makes its row."""
        now = self._database.clock()
        with self._database.transaction() as session:
            row = session.get(WorkerRow, worker_id, with_for_update=True)
            if row is None:
                session.add(
                    WorkerRow(id=worker_id, card=card, capacity=capacity, started_at=now, seen_at=now)
                )
            else:
                row.capacity, row.seen_at = capacity, now

    def gone(self, worker_id: str) -> None:
        """A worker went down in order."""
        with self._database.transaction() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))

    def ready(self) -> Sequence[WorkerRow]:
        """The workers seen lately."""
        with self._database.reading() as session:
            return ready(session, self._database.clock())
