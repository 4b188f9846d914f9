"""Fixtures for every test. The record is on SQLite unless a module has a `database_engine` of its own.

They import what they need when they are asked for: the process that hands the tests out loads this file, too.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from postgresql import PostgreSQL
    from services import Doorbell, MovableClock
    from sqlalchemy import Engine
    from story import Story

    from jobs.database import Clock
    from jobs.record import Record
    from jobs.sweep import Sweep
    from settings import Settings

# A runner started in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays: the collector looks for garbage only in what the tests make."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def clock() -> MovableClock:
    from services import MovableClock

    return MovableClock()


@pytest.fixture
def ring() -> Doorbell:
    from services import Doorbell

    return Doorbell()


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An SQLite database with every table, opened once: an engine keeps the statements it has compiled."""
    from jobs.database import open_engine
    from migrations import upgrade

    url = f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'unabridged.db'}"
    upgrade(url)
    engine = open_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def database_engine(sqlite: Engine) -> Iterator[Engine]:
    """An open database with every table and no rows."""
    from jobs.tables import Base

    yield sqlite
    emptied = ";".join(f"DELETE FROM {table}" for table in Base.metadata.tables)
    with closing(sqlite.raw_connection()) as connection:
        connection.executescript(f"BEGIN; PRAGMA defer_foreign_keys=ON; {emptied}; COMMIT")


@pytest.fixture
def database_url(database_engine: Engine) -> str:
    """Where that database is."""
    return database_engine.url.render_as_string(hide_password=False)


@pytest.fixture
def empty_database_url(tmp_path: Path) -> str:
    """A database without tables."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    from postgresql import postgresql_server

    with postgresql_server() as server:
        yield server


@pytest.fixture(scope="session")
def usual() -> Settings:
    """What is set in every test."""
    from settings import Settings

    return Settings(
        _env_file=None,
        max_upload_bytes=10_000,
        max_queued=600,
        lease_s=30,
        ring_again_s=15,
        max_attempts=3,
        job_timeout_s=3600,
        idempotency_s=3600,
    )


@pytest.fixture
def settings(usual: Settings, tmp_path: Path, database_url: str) -> Settings:
    return usual.model_copy(update={"data": tmp_path, "database_url": database_url})


@pytest.fixture
def open_again(settings: Settings, ring: Doorbell, database_engine: Engine) -> Callable[[Clock], Record]:
    """Opens the record once more, as another process would, with a clock of its own."""
    from jobs.record import open_record

    return lambda clock: open_record(settings, ring=ring, clock=clock, engine=database_engine)


@pytest.fixture
def record(open_again: Callable[[Clock], Record], clock: MovableClock) -> Record:
    return open_again(clock)


@pytest.fixture
def sweep(record: Record, settings: Settings, ring: Doorbell) -> Sweep:
    from services import sweep_of

    return sweep_of(record, ring, settings)


@pytest.fixture
def story(record: Record) -> Story:
    from story import Story

    return Story(record)


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Threads that run beside the test."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield pool
