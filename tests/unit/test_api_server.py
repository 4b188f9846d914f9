"""The server itself: alive, ready, and what it can take."""

from __future__ import annotations

import pytest
from application import Parts
from flask.testing import FlaskClient
from services import MovableClock
from story import Story

from api.app import create_app
from api.services import assemble
from jobs.record import Record, open_record
from settings import Settings


def missing(client: FlaskClient) -> list[str]:
    response = client.get("/readyz")
    problem = response.get_json()
    assert (response.status_code, problem["code"], response.headers["Retry-After"]) == (503, "not_ready", "5")
    return [fault["at"] for fault in problem["errors"]]


def test_it_is_ready_when_every_part_is_there(client: FlaskClient, record: Record) -> None:
    record.workers.seen("w", card={}, capacity={})
    response = client.get("/readyz")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_it_says_which_part_is_missing(
    client: FlaskClient, record: Record, parts: Parts, clock: MovableClock
) -> None:
    assert missing(client) == ["worker"]
    record.workers.seen("w", card={}, capacity={})
    parts.broker = False
    assert missing(client) == ["broker"]
    parts.migrated = False
    assert missing(client) == ["migrations", "broker"]
    parts.broker = parts.migrated = True
    clock.move(60)
    assert missing(client) == ["worker"]


def test_it_says_when_the_database_is_missing(settings: Settings, empty_database_url: str) -> None:
    lost = settings.model_copy(update={"database_url": empty_database_url})
    record = open_record(lost, ring=lambda *_: True)
    app = create_app(assemble(lost, record, broker_answers=lambda: True, migrated=lambda: True))
    assert missing(app.test_client()) == ["database"]
    assert app.test_client().get("/livez").json == {"status": "ok"}
    record.close()


def test_capacity_tells_who_works_and_what_waits(
    client: FlaskClient, story: Story, record: Record, settings: Settings
) -> None:
    story.ask()
    story.ask()
    record.ledger.cancel(story.begin().id)
    record.workers.seen("card-0", card={"name": "m", "window": 8192}, capacity={"tokens_fit": 8000})
    capacity = client.get("/v1/capacity").get_json()
    assert (capacity["queued"], capacity["in_progress"]) == (2, 1)
    assert capacity["limits"]["max_upload_bytes"] == settings.max_upload_bytes
    assert capacity["limits"]["max_queued"] == capacity["max_queued"] == settings.max_queued
    [worker] = capacity["workers"]
    assert (worker["id"], worker["card"]["window"]) == ("card-0", 8192)
    assert worker["capacity"] == {"tokens_fit": 8000}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/capacity"])
def test_unknown_parameters_of_probes_do_no_harm(client: FlaskClient, record: Record, path: str) -> None:
    record.workers.seen("w", card={}, capacity={})
    assert client.get(f"{path}?t=1").status_code == 200
