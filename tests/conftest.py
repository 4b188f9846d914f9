"""Fixtures for every test. The record is on SQLite unless a module has a `database_url` of its own."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from services import Doorbell, MovableClock, sweep_of
from story import Story

from jobs.database import Clock
from jobs.record import Record, open_record
from jobs.sweep import Sweep
from migrations import upgrade
from settings import Settings

if TYPE_CHECKING:
    from postgresql import PostgreSQL

# A runner started in the background ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def ring() -> Doorbell:
    return Doorbell()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with every table, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "unabridged.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def database_url(migrated: Path, tmp_path: Path) -> str:
    """A database with every table and no rows."""
    return f"sqlite:///{shutil.copy(migrated, tmp_path)}"


@pytest.fixture
def empty_database_url(tmp_path: Path) -> str:
    """A database without tables."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    from postgresql import postgresql_server

    with postgresql_server() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        _env_file=None,
        data=tmp_path,
        database_url=database_url,
        max_upload_bytes=10_000,
        max_queued=600,
        lease_s=30,
        ring_again_s=15,
        max_attempts=3,
        job_timeout_s=3600,
        idempotency_s=3600,
    )


@pytest.fixture
def open_again(settings: Settings, ring: Doorbell) -> Iterator[Callable[[Clock], Record]]:
    """Opens the record once more, as another process would, with a clock of its own."""
    records: list[Record] = []

    def open_with(clock: Clock) -> Record:
        records.append(open_record(settings, ring=ring, clock=clock))
        return records[-1]

    yield open_with
    for record in records:
        record.close()


@pytest.fixture
def record(open_again: Callable[[Clock], Record], clock: MovableClock) -> Record:
    return open_again(clock)


@pytest.fixture
def sweep(record: Record, settings: Settings, ring: Doorbell) -> Sweep:
    return sweep_of(record, ring, settings)


@pytest.fixture
def story(record: Record) -> Story:
    return Story(record)


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    """Threads that run beside the test."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        yield pool
