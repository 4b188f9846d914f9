"""A lease: who may write to a piece of work, and for how long.

A claim answers a message that is in the outbox, and takes it out: a doubled or late message finds nothing.
It hands out an attempt number, the fencing token, which every later write must carry: a worker that slept
through its lease finds its token old and its write refused (M. Kleppmann, "How to do distributed locking",
2016, on fencing tokens).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.errors import LeaseLost
from jobs.tables import DeliveryRow, DocumentRow, JobRow

Leased = TypeVar("Leased", DocumentRow, JobRow, DeliveryRow)

#: What a claimed row may be called while its lease holds.
HELD = ("in_progress", "cancelling")


def claim(
    database: Database, session: Session, table: type[Leased], subject_id: str, seconds: float
) -> Leased | None:
    """Take a queued row for `seconds`; None if it is not there to be taken (a late or doubled message)."""
    row = session.get(table, subject_id, with_for_update=True)
    return taken(database, session, row, subject_id, seconds)


def taken(
    database: Database, session: Session, row: Leased | None, subject_id: str, seconds: float
) -> Leased | None:
    """`claim` of a row that was looked for and is locked already."""
    if not database.take(session, subject_id) or row is None or row.status != "queued":
        return None
    row.status = "in_progress"
    row.attempt += 1
    row.tries += 1
    hold(database, row, seconds)
    return row


def hold(database: Database, row: Leased, seconds: float) -> None:
    """Keep a claimed row for `seconds` from now."""
    row.lease_until = database.clock() + timedelta(seconds=seconds)


def held(session: Session, row: Leased) -> Leased:
    """The row as it stands now, locked, if the worker that claimed `row` still owns it.

    Raises:
        LeaseLost: it does not: the row was claimed again, or is finished.
    """
    now = session.get(type(row), row.id, with_for_update=True)
    if now is None or now.attempt != row.attempt or now.status not in HELD:
        raise LeaseLost
    return now
