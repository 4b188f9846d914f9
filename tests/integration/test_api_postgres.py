"""What may differ on PostgreSQL: characters it cannot store, and requests side by side."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from apiflask import APIFlask
from sqlalchemy import Engine, func, select, text
from story import Story

from api.app import create_app
from api.services import assemble
from jobs.database import open_engine
from jobs.record import Record, open_record
from settings import Settings

if TYPE_CHECKING:
    from postgresql import PostgreSQL


@pytest.fixture
def database_engine(postgresql: PostgreSQL) -> Iterator[Engine]:
    with postgresql.database() as url:
        engine = open_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def app(settings: Settings, record: Record) -> APIFlask:
    return create_app(assemble(settings, record, broker_answers=lambda: True, migrated=lambda: True))


@pytest.mark.timeout(30)
def test_a_server_that_takes_connections_and_says_nothing_is_told(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        lost = settings.model_copy(update={"database_url": url})
        record = open_record(lost, ring=lambda *_: True)
        app = create_app(assemble(lost, record, broker_answers=lambda: True, migrated=lambda: True))
        answer = app.test_client().get("/v1/jobs")
        assert (answer.status_code, answer.get_json()["code"]) == (503, "database_unavailable")
        record.close()


def test_connections_that_the_server_closed_meanwhile_are_opened_again(
    app: APIFlask, database_engine: Engine
) -> None:
    with database_engine.connect() as first, database_engine.connect() as second:
        kept = [connection.scalar(select(func.pg_backend_pid())) for connection in (first, second)]
    another = open_engine(database_engine.url.render_as_string(hide_password=False))
    with another.connect() as connection:
        ended = [connection.scalar(select(func.pg_terminate_backend(pid, 5_000))) for pid in kept]
    another.dispose()
    assert ended == [True, True]
    assert [app.test_client().get("/v1/jobs").status_code for _ in kept] == [200, 200]


def test_who_only_reads_leaves_no_transaction_open(record: Record) -> None:
    state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
    with record.database.reading() as reader, record.database.transaction() as observer:
        pid = reader.scalar(select(func.pg_backend_pid()))
        assert observer.scalar(state, {"pid": pid}) == "idle"


@pytest.mark.parametrize(("url", "status"), [("/v1/jobs/%00", 404), ("/v1/jobs?after=%00", 200)])
def test_an_id_that_cannot_be_stored_is_found_nowhere(app: APIFlask, url: str, status: int) -> None:
    assert app.test_client().get(url).status_code == status


def test_text_with_any_characters_comes_back_as_it_was(app: APIFlask, story: Story) -> None:
    question = "Ist 'das' \"so\"? \\ \u4e2d\u6587 \U0001f469\u200d\U0001f52c"
    body = {"kind": "ask", "document_ids": [story.read_document().id], "params": {"question": question}}
    response = app.test_client().post("/v1/jobs", json=body)
    assert (response.status_code, response.get_json()["params"]["questions"]) == (202, [question])


def test_one_key_used_at_once_makes_one_job(
    app: APIFlask, story: Story, background: ThreadPoolExecutor
) -> None:
    body = {"kind": "summarize", "document_ids": [story.read_document().id]}

    def post() -> tuple[int, str]:
        response = app.test_client().post("/v1/jobs", json=body, headers={"Idempotency-Key": "k"})
        return response.status_code, response.get_json()["id"]

    answers = {future.result() for future in [background.submit(post) for _ in range(8)]}
    assert len(answers) == 1
    assert len(app.test_client().get("/v1/jobs").get_json()["data"]) == 1
