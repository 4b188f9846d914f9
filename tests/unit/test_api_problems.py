"""Errors over HTTP: one form for all, nothing of the inside in them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog
from apiflask import APIFlask
from flask.testing import FlaskClient
from services import MovableClock
from structlog.testing import LogCapture

from api.app import create_app
from api.problems import pointer, status_of, title_of, translate
from api.services import assemble
from jobs.errors import JobNotFound, LeaseLost, RecordError, StorageFull
from jobs.record import open_record
from settings import Settings
from worker.engine.errors import EngineError


@pytest.fixture
def log() -> Iterator[LogCapture]:
    before = structlog.get_config()
    capture = LogCapture()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, capture], cache_logger_on_first_use=False
    )
    yield capture
    structlog.configure(**before)


def test_a_problem_has_the_form_of_rfc_9457(client: FlaskClient) -> None:
    response = client.get("/v1/jobs/job_x")
    assert response.content_type == "application/problem+json"
    assert response.json == {
        "type": "/docs/errors#job_not_found",
        "title": "There is no job with this id.",
        "status": 404,
        "detail": "There is no job 'job_x'. List them: GET /v1/jobs.",
        "code": "job_not_found",
        "request_id": response.headers["X-Request-Id"],
    }


def test_an_unknown_address_is_a_problem(client: FlaskClient) -> None:
    response = client.get("/v1/nothing")
    assert (response.status_code, response.get_json()["code"]) == (404, "route_not_found")


def test_a_browser_at_an_unknown_address_gets_a_page(client: FlaskClient) -> None:
    asked = "text/html,application/xhtml+xml,image/webp,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
    response = client.get("/nothing", headers={"Accept": asked})
    assert (response.status_code, response.mimetype) == (404, "text/html")
    assert "There is nothing at this address" in response.text


def test_a_fault_that_is_a_sentence_ends_once(client: FlaskClient) -> None:
    body = {"kind": "extract", "document_ids": ["doc_x"], "params": {"fields": ["rent: money"]}}
    assert client.post("/v1/jobs", json=body).get_json()["detail"].endswith("yes/no, date, list.")


def test_a_method_that_is_not_taken_says_which_are(client: FlaskClient) -> None:
    response = client.patch("/v1/jobs")
    assert (response.status_code, response.get_json()["code"]) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": NaN}', b"\xff", b"[1] 2", b'{"a": -Infinity}'])
def test_a_body_that_is_not_json_is_refused(client: FlaskClient, body: bytes) -> None:
    response = client.post("/v1/jobs", data=body, content_type="application/json")
    assert (response.status_code, response.get_json()["code"]) == (400, "malformed_json")


@pytest.mark.parametrize("body", [[], "text", 1, None, True])
def test_a_body_that_is_no_object_is_refused(client: FlaskClient, body: object) -> None:
    response = client.post("/v1/jobs", data=json.dumps(body), content_type="application/json")
    assert (response.status_code, response.get_json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_of_another_type_is_refused(client: FlaskClient, media_type: str | None) -> None:
    response = client.post("/v1/jobs", data=b"{}", content_type=media_type)
    assert (response.status_code, response.get_json()["code"]) == (415, "unsupported_media_type")


def test_a_body_without_end_is_refused_unread(client: FlaskClient) -> None:
    response = client.post(
        "/v1/jobs", content_type="application/json", environ_overrides={"CONTENT_LENGTH": str(33 * 1024**2)}
    )
    assert (response.status_code, response.get_json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000"])
def test_characters_that_cannot_be_stored_do_no_harm(client: FlaskClient, text: str) -> None:
    body = f'{{"kind": "ask", "document_ids": ["{text}"], "params": {{"question": "{text}"}}}}'
    schema = f'{{"type": "object", "properties": {{"a{text}": {{"const": "{text}"}}}}}}'
    other = f'{{"kind": "extract", "document_ids": ["x"], "params": {{"schema": {schema}}}}}'
    for data in (body, other):
        response = client.post("/v1/jobs", data=data, content_type="application/json")
        assert response.status_code in {400, 404, 422}


def test_a_fault_of_the_whole_body_is_told_as_one(client: FlaskClient) -> None:
    assert "description: body: " in client.post("/v1/jobs", json=[1]).get_json()["detail"]


@pytest.mark.parametrize("value", ['{"a": "\\ud800"}', '{"\\udfff": "a"}', "1e999"])
def test_what_no_answer_could_say_again_is_refused(client: FlaskClient, value: str) -> None:
    body = f'{{"kind": "ask", "document_ids": ["x"], "params": {{"question": "a"}}, "metadata": {value}}}'
    response = client.post("/v1/jobs", data=body, content_type="application/json")
    assert (response.status_code, response.get_json()["code"]) == (400, "malformed_json")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "page=1", "after=" + "a" * 65, "status=lost"]
)
def test_a_wrong_parameter_is_named(client: FlaskClient, query: str) -> None:
    response = client.get(f"/v1/jobs?{query}")
    assert response.status_code == 422
    assert [fault["at"] for fault in response.get_json()["errors"]] == ["query/" + query.partition("=")[0]]


def test_a_bug_is_logged_with_its_traceback_and_not_told(empty_app: APIFlask, log: LogCapture) -> None:
    empty_app.extensions["unabridged"] = None
    response = empty_app.test_client().get("/v1/jobs")
    problem = response.get_json()
    assert (response.status_code, problem["code"]) == (500, "server_error")
    assert "NoneType" not in response.text
    [failure] = [entry for entry in log.entries if entry["event"] == "request_failed"]
    assert isinstance(failure["exc_info"], AttributeError)
    assert failure["request_id"] == problem["request_id"] == response.headers["X-Request-Id"]


def test_a_database_without_tables_is_unavailable(
    settings: Settings, empty_database_url: str, log: LogCapture, clock: MovableClock
) -> None:
    record = open_record(
        settings.model_copy(update={"database_url": empty_database_url}), ring=lambda *_: True, clock=clock
    )
    app = create_app(assemble(settings, record, broker_answers=lambda: True, migrated=lambda: False))
    response = app.test_client().get("/v1/jobs")
    record.close()
    assert (response.status_code, response.get_json()["code"]) == (503, "database_unavailable")
    assert "no such table" not in response.text
    assert "no such table" in next(entry["error"] for entry in log.entries if "error" in entry)


def test_an_error_without_a_status_of_its_own_is_a_bug() -> None:
    for exc in (LeaseLost(), RecordError(), EngineError(), KeyError("x")):
        assert translate(exc).code == "server_error"


def test_a_full_disk_is_told() -> None:
    assert status_of(StorageFull) == 507
    assert translate(StorageFull()).code == "storage_full"


def test_a_title_is_the_first_sentence() -> None:
    assert title_of(JobNotFound) == "There is no job with this id."


def test_a_pointer_escapes_its_steps() -> None:
    assert pointer("/params", "a/b", 0, "c~d") == "/params/a~1b/0/c~0d"


def test_each_request_is_logged_under_its_id(client: FlaskClient, log: LogCapture) -> None:
    response = client.get("/v1/jobs/x", headers={"X-Request-Id": "mine-1"})
    assert response.headers["X-Request-Id"] == "mine-1"
    [line] = log.entries
    assert {**line, "ms": 0} == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "path": "/v1/jobs/x",
        "status": 404,
        "code": "job_not_found",
        "ms": 0,
        "request_id": "mine-1",
    }


@pytest.mark.parametrize("given", ["a b", "x" * 65, "caf\u00e9", ""])
def test_a_request_id_that_is_none_is_replaced(client: FlaskClient, given: str) -> None:
    assert client.get("/livez", headers={"X-Request-Id": given}).headers["X-Request-Id"].startswith("req_")
