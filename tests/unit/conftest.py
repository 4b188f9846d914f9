"""The application around the record of each test, called without a network."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from apiflask import APIFlask
from application import Parts, WaitingTime
from flask.testing import FlaskClient

from api.app import create_app
from api.services import Services, assemble
from api.watch import Watch
from jobs.record import Record
from settings import Settings


@pytest.fixture
def time() -> WaitingTime:
    return WaitingTime()


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def services(settings: Settings, record: Record, parts: Parts, time: WaitingTime) -> Services:
    services = assemble(
        settings, record, broker_answers=lambda: parts.broker, migrated=lambda: parts.migrated
    )
    return replace(services, watch=Watch(record.ledger.version, seats=2, clock=time.clock, pause=time.pause))


@pytest.fixture(scope="session")
def empty_app() -> APIFlask:
    """Made once, for compiling its routes takes longer than most tests; its services are put in by `app`."""
    return create_app(cast(Services, None))


@pytest.fixture
def app(empty_app: APIFlask, services: Services) -> APIFlask:
    empty_app.extensions["unabridged"] = services
    return empty_app


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    return app.test_client()
