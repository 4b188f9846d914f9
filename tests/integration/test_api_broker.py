"""The API with a real broker: rung while it is there, and unharmed while it is not."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest
from celery import Celery
from flask.testing import FlaskClient
from redis_server import Server, until

from api.app import create_app
from api.bootstrap import build
from api.services import Services
from doorbell import Doorbell
from jobs.queues import CPU, PARSE
from settings import Settings


@pytest.fixture
def services(settings: Settings, server: Server) -> Iterator[Services]:
    services = build(settings.model_copy(update={"redis_url": server.broker.url}))
    yield services
    services.record.close()


@pytest.fixture
def client(services: Services) -> FlaskClient:
    return create_app(services).test_client()


@pytest.fixture
def queue(server: Server) -> Celery:
    return Celery(broker=server.broker.url, config_source="celeryconfig", set_as_current=False)


def upload(client: FlaskClient, data: bytes) -> str:
    response = client.post("/v1/documents", data={"file": (io.BytesIO(data), "a.txt")})
    assert response.status_code == 201
    return str(response.get_json()["id"])


def missing(client: FlaskClient) -> list[str]:
    return [fault["at"] for fault in client.get("/readyz").get_json()["errors"]]


def test_the_message_carries_the_id_and_nothing_else(client: FlaskClient, queue: Celery) -> None:
    document_id = upload(client, b"text")
    with queue.connection_for_read() as connection:
        message = connection.SimpleQueue(CPU).get(timeout=5)
        message.ack()
    assert message.headers["task"] == PARSE
    args, kwargs, *_ = message.payload
    assert (args, kwargs) == ([document_id], {})


def test_work_is_taken_while_the_broker_is_down_and_rung_when_it_is_back(
    client: FlaskClient, services: Services, server: Server, queue: Celery
) -> None:
    upload(client, b"before")
    server.stop()
    began = time.monotonic()
    for number in range(3):  # the first on a connection that was open, the others on none
        upload(client, b"meanwhile %d" % number)
    assert time.monotonic() - began < 5
    assert "broker" in missing(client)
    server.start()
    until(lambda: "broker" not in missing(client))
    upload(client, b"after")
    # What was rung meanwhile is left to the sweep, and so is the first, if it died with the broker.
    assert Doorbell(queue).waiting(CPU) in {1, 2}
