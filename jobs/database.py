"""The database: one engine a process, short transactions, and the doorbell rung after each commit.

Whoever locks several things locks them in this order, so that nobody waits in a circle: idempotency key,
SHA-256 of an upload, documents (by id), jobs, deliveries, outbox.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from select import POLLIN, poll
from typing import Any

from sqlalchemy import Engine, create_engine, delete, event, func, make_url, select
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import Session

from jobs.tables import OutboxRow

#: Sends `(task, queue, subject_id)` to the queue; whether it was taken. Must not raise.
Ring = Callable[[str, str, str], bool]
Clock = Callable[[], datetime]


def ring_all(ring: Ring, messages: Iterable[tuple[str, str, str]]) -> None:
    """Ring until nobody hears, for each try may take seconds: the sweep rings for the rest."""
    all(ring(*message) for message in messages)


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


#: Seconds to wait for SQLite's one writer to finish.
BUSY_S = 30.0


#: A PostgreSQL that went away without a word is noticed within a lease (libpq, "Parameter Key Words").
#: What a URL says goes before.
IMPATIENT = {
    "connect_timeout": "5",
    "tcp_user_timeout": "15000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
}


def open_engine(url: str) -> Engine:
    """An SQLAlchemy engine for PostgreSQL or SQLite.

    SQLite runs in WAL mode with `synchronous=NORMAL` (a power cut may lose the last commits, never corrupt:
    sqlite.org/wal.html, section 2.3), and every transaction takes the write lock at its start, so that two
    writers wait for each other instead of failing halfway (sqlite.org/lang_transaction.html, section 2.2).
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed.set(query=IMPATIENT | parsed.query), pool_size=10, max_overflow=20)
        event.listen(engine, "checkout", _refuse_closed)
        return engine
    if parsed.database and parsed.database != ":memory:":
        _make(Path(parsed.database))
    engine = create_engine(parsed, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions of its own
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        driver = connection.connection.dbapi_connection
        if connection.get_execution_options().get("reading", False):
            driver.execute("BEGIN")
        elif not _took_write_lock(driver):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # waits once more, and fails as SQLAlchemy fails

    return engine


def _refuse_closed(connection: Any, _record: object, _fairy: object) -> None:
    """Have a pooled connection that PostgreSQL closed opened again, which costs no question to the server.

    Unasked, a server says nothing but farewell; the keepalives tell of one that went without.
    """
    unasked = poll()
    if not connection.closed:
        unasked.register(connection, POLLIN)
    if connection.closed or unasked.poll(0):
        raise InvalidatePoolError


def _took_write_lock(connection: sqlite3.Connection) -> bool:
    """BEGIN IMMEDIATE, tried every half millisecond: SQLite's own pauses outlast our transactions."""
    connection.execute("PRAGMA busy_timeout=0")
    end = time.monotonic() + BUSY_S
    while time.monotonic() < end:
        try:
            connection.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                break
        time.sleep(0.0005)
    connection.execute(f"PRAGMA busy_timeout={round(BUSY_S * 1000)}")
    return connection.in_transaction


def _make(path: Path) -> None:
    """Have an SQLite file in WAL mode, which it keeps.

    Of two connections that switch the mode at once, one fails without waiting: so the folder is locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    finally:
        os.close(folder)


class Database:
    """Hands out transactions. `ring` is called for each message put into the outbox, once it is committed."""

    def __init__(self, engine: Engine, *, ring: Ring, clock: Clock = utc_now) -> None:
        self.engine = engine
        sqlite = engine.dialect.name == "sqlite"
        # On PostgreSQL each statement of a transaction looks afresh: there BEGIN and ROLLBACK say nothing.
        options = {} if sqlite else {"isolation_level": "AUTOCOMMIT"}
        self._reader = engine.execution_options(reading=True, **options)
        self.clock = clock
        self._ring = ring
        # SQLite has one writer and makes others look again after a pause; threads of one process can queue.
        self._turn: AbstractContextManager[object] = threading.Lock() if sqlite else nullcontext()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction that writes: commits at the end of the block, rolls back on any exception."""
        with Session(self.engine, expire_on_commit=False) as session:
            with self._turn, session.begin():
                yield session
            ring_all(self._ring, session.info.get("rings", ()))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads; it never waits for a writer on SQLite."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    def post(
        self, session: Session, task: str, queue: str, subject_id: str, *, after: timedelta | None = None
    ) -> None:
        """Leave a message in the outbox, within the transaction of the work it is about."""
        now = self.clock()
        session.add(
            OutboxRow(
                task=task,
                queue=queue,
                subject_id=subject_id,
                due_at=now + (after or timedelta()),
                rung_at=None if after else now,
            )
        )
        if not after:
            session.info.setdefault("rings", []).append((task, queue, subject_id))

    def redirect(self, session: Session, message: OutboxRow, queue: str) -> None:
        """Ring a message once more, in another queue; it keeps its place in the outbox."""
        message.queue, message.rung_at = queue, self.clock()
        session.info.setdefault("rings", []).append((message.task, queue, message.subject_id))

    def take(self, session: Session, subject_id: str) -> bool:
        """Take what was rung about a piece of work out of the outbox; False if nobody rang for it."""
        rung = delete(OutboxRow).where(OutboxRow.subject_id == subject_id, OutboxRow.rung_at.is_not(None))
        return session.connection().execute(rung).rowcount > 0

    def drop(self, session: Session, subject_id: str) -> None:
        """Take every message about a piece of work out of the outbox: it is not to be done now."""
        session.execute(delete(OutboxRow).where(OutboxRow.subject_id == subject_id))

    @staticmethod
    def alone(session: Session, name: str) -> None:
        """Until the transaction ends, let no other one past this line under the same name.

        For what has no row to lock yet. SQLite's only writer is alone as it is.
        """
        if session.get_bind().dialect.name == "postgresql":
            session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    def close(self) -> None:
        """Return every connection."""
        self.engine.dispose()
