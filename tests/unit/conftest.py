"""The application around the record of each test, called without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from apiflask import APIFlask
    from application import Parts, WaitingTime
    from flask.testing import FlaskClient
    from sqlalchemy import Engine

    from api.services import Services
    from jobs.record import Record
    from settings import Settings


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is room: these tests write, sync and remove thousands of files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    with TemporaryDirectory(dir=memory if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture
def time() -> WaitingTime:
    from application import WaitingTime

    return WaitingTime()


@pytest.fixture
def parts() -> Parts:
    from application import Parts

    return Parts()


@pytest.fixture
def services(settings: Settings, record: Record, parts: Parts, time: WaitingTime) -> Services:
    from api.services import assemble
    from api.watch import Watch

    services = assemble(
        settings, record, broker_answers=lambda: parts.broker, migrated=lambda: parts.migrated
    )
    return replace(services, watch=Watch(record.ledger.version, seats=2, clock=time.clock, pause=time.pause))


@pytest.fixture
def statements(database_engine: Engine) -> Iterator[list[str]]:
    """What the database was asked, one after the other."""
    from sqlalchemy import event

    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    event.listen(database_engine, "before_cursor_execute", note)
    yield asked
    event.remove(database_engine, "before_cursor_execute", note)


@pytest.fixture(scope="session")
def empty_app() -> APIFlask:
    """Made once, for compiling its routes takes longer than most tests; its services are put in by `app`."""
    from api.app import create_app

    return create_app(cast("Services", None))


@pytest.fixture
def app(empty_app: APIFlask, services: Services) -> APIFlask:
    empty_app.extensions["unabridged"] = services
    return empty_app


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    return app.test_client()
