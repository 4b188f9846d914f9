"""Admission: what is refused at the door, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from services import MovableClock
from story import OUTCOME, Story
from werkzeug.test import TestResponse

from api.admission import VALUES_LIMIT, check_webhook
from api.app import create_app
from api.problems import WebhookRefused
from api.services import assemble
from jobs.ids import new_id
from jobs.record import Record
from settings import Settings
from worker.webhooks import network_policy


def refused(response: TestResponse) -> tuple[int, str, list[str]]:
    """Status, code, and where the faults are."""
    problem = response.get_json()
    return response.status_code, problem["code"], [fault["at"] for fault in problem.get("errors", [])]


def object_of(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@pytest.fixture
def document_id(story: Story) -> str:
    return story.read_document().id


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ({"kind": "translate"}, "/kind"),
        ({"kind": "Ask"}, "/kind"),
        ({"document_ids": []}, "/document_ids"),
        ({"document_ids": "x"}, "/document_ids"),
        ({"surprise": 1}, "/surprise"),
        ({"params": {"question": " \n"}}, "/params/questions/0"),
        ({"params": {}}, "/params/questions"),
        ({"params": {"question": "x", "temperature": 3}}, "/params/temperature"),
        ({"params": {"question": "x", "focus": "y"}}, "/params/focus"),
        ({"params": {"question": "x", "max_tokens": "5"}}, "/params/max_tokens"),
        ({"params": {"question": "x", "max_tokens": True}}, "/params/max_tokens"),
        ({"metadata": {"a": 1}}, "/metadata/a"),
        ({"webhook_url": "example.org"}, "/webhook_url"),
        ({"timeout_s": 0}, "/timeout_s"),
        ({"timeout_s": "60"}, "/timeout_s"),
        ({"kind": "compare", "params": {}}, "/document_ids"),
    ],
)
def test_a_fault_is_told_with_its_place(
    client: FlaskClient, document_id: str, change: dict[str, Any], at: str
) -> None:
    body = {"kind": "ask", "document_ids": [document_id], "params": {"question": "x"}, **change}
    response = client.post("/v1/jobs", json=body)
    assert refused(response) == (422, "invalid_request", [at])
    assert response.get_json()["errors"][0]["message"] in response.get_json()["detail"]
    assert client.get("/v1/jobs").get_json()["data"] == []


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"type": "objekt"}, "invalid_schema"),
        ({"type": "array", "items": {}}, "invalid_schema"),
        (object_of(a={"type": "number", "minimum": "one"}), "invalid_schema"),
        (object_of(a={"$ref": "https://example.org/schema.json"}), "invalid_schema"),
        (object_of(a={"type": "array", "items": {"$ref": "file:///etc/passwd"}}), "invalid_schema"),
        (object_of(a={"$ref": "#/$defs/missing"}), "unsupported_schema"),
        (object_of(a={"type": "string", "contentEncoding": "base64"}, b={"not": {}}), "unsupported_schema"),
    ],
)
def test_a_schema_that_cannot_work_is_refused(
    client: FlaskClient, document_id: str, schema: dict[str, Any], code: str
) -> None:
    body = {"kind": "extract", "document_ids": [document_id], "params": {"schema": schema}}
    status, told, at = refused(client.post("/v1/jobs", json=body))
    assert (status, told) == (422, code)
    assert all(place.startswith("/params/schema") for place in at)


def test_a_schema_may_refer_to_itself(client: FlaskClient, document_id: str) -> None:
    schema = {**object_of(a={"$ref": "#/$defs/name"}), "$defs": {"name": {"type": "string"}}}
    body = {"kind": "extract", "document_ids": [document_id], "params": {"schema": schema}}
    assert client.post("/v1/jobs", json=body).status_code == 202


def test_a_property_may_be_called_like_a_reference(client: FlaskClient, document_id: str) -> None:
    schema = object_of(**{"$ref": {"type": "string"}})
    body = {"kind": "extract", "document_ids": [document_id], "params": {"schema": schema}}
    assert client.post("/v1/jobs", json=body).status_code == 202


def test_a_schema_too_large_to_check_is_refused_unchecked(client: FlaskClient, document_id: str) -> None:
    schema = object_of(**{f"p{number}": {"type": "string"} for number in range(VALUES_LIMIT // 2)})
    body = {"kind": "extract", "document_ids": [document_id], "params": {"schema": schema}}
    assert refused(client.post("/v1/jobs", json=body)) == (422, "invalid_request", ["/params"])


@pytest.mark.parametrize("depth", [200, 100_000])
def test_a_body_nested_without_end_is_refused(client: FlaskClient, document_id: str, depth: int) -> None:
    nested = '{"a":' * depth + "1" + "}" * depth
    body = f'{{"kind": "extract", "document_ids": ["{document_id}"], "params": {{"schema": {nested}}}}}'
    response = client.post("/v1/jobs", data=body, content_type="application/json")
    assert refused(response) == (400, "malformed_json", [])


def test_documents_must_exist_and_be_documents(client: FlaskClient, story: Story, document_id: str) -> None:
    job = story.ask()
    for stranger in (new_id("doc"), job.id, "", "x" * 1000):
        body = {"kind": "summarize", "document_ids": [document_id, stranger]}
        assert refused(client.post("/v1/jobs", json=body)) == (404, "document_not_found", [])


def test_a_document_that_failed_is_told_with_its_reason(client: FlaskClient, story: Story) -> None:
    document = story.fail_to_parse(story.upload())
    response = client.post("/v1/jobs", json={"kind": "summarize", "document_ids": [document.id]})
    assert refused(response) == (422, "document_failed", [])
    assert "The file is damaged." in response.get_json()["detail"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/hook",
        "http://10.0.0.7:8080/hook",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://2130706433/",
        "http://localhost:8765/v1/jobs",
        "https://app.localhost./",
        "http://user:word@example.org/",
        "http://0.0.0.0/",
    ],
)
def test_a_webhook_to_a_private_address_is_refused(client: FlaskClient, document_id: str, url: str) -> None:
    for path in ("/v1/jobs", "/v1/batches"):
        body = {"kind": "summarize", "document_ids": [document_id], "webhook_url": url}
        assert refused(client.post(path, json=body)) == (422, "webhook_refused", ["/webhook_url"])


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://10.0.0.7/", True),
        ("http://[fd00::1]/", True),
        ("http://localhost/", True),
        ("http://user:word@example.org/", False),
    ],
)
def test_a_private_address_is_refused_with_the_setting_that_allows_it(
    client: FlaskClient, document_id: str, url: str, private: bool
) -> None:
    body = {"kind": "summarize", "document_ids": [document_id], "webhook_url": url}
    problem = client.post("/v1/jobs", json=body).get_json()
    for told in (problem["detail"], problem["errors"][0]["message"]):
        assert ("UNABRIDGED_WEBHOOK_ALLOW" in told) == private


@pytest.mark.parametrize(
    "url", ["https://example.org/hook", "http://example.org:8443/", "https://93.184.215.14/"]
)
def test_a_webhook_to_a_public_address_is_taken(client: FlaskClient, document_id: str, url: str) -> None:
    body = {"kind": "summarize", "document_ids": [document_id], "webhook_url": url}
    assert client.post("/v1/jobs", json=body).status_code == 202


def test_allowed_networks_may_be_called() -> None:
    ours = network_policy(("127.0.0.0/8", "10.1.0.0/16"))
    for url in ("http://127.0.0.1:9000/", "http://localhost:9000/", "http://10.1.2.3/"):
        check_webhook(url, ours)
    with pytest.raises(WebhookRefused):
        check_webhook("http://10.2.0.1/", ours)


def test_an_instruction_longer_than_every_window_is_refused(
    client: FlaskClient, record: Record, document_id: str, clock: MovableClock
) -> None:
    def ask(words: int) -> TestResponse:
        params = {"questions": ["short", "word " * words]}
        return client.post("/v1/jobs", json={"kind": "ask", "document_ids": [document_id], "params": params})

    assert ask(5_000).status_code == 202  # nobody knows yet what fits
    record.workers.seen("small", card={"window": 1_000}, capacity={})
    record.workers.seen("large", card={"window": 4_000}, capacity={})
    assert ask(3_999).status_code == 202
    assert refused(ask(4_000)) == (422, "instruction_too_long", [])
    clock.move(60)  # both are gone
    assert ask(4_000).status_code == 202


def test_a_chat_follows_a_completed_chat_over_the_same_documents(
    client: FlaskClient, story: Story, record: Record, document_id: str
) -> None:
    def say(previous: str | None, *documents: str) -> TestResponse:
        params = {"message": "And then?"} | ({"previous_job_id": previous} if previous else {})
        body = {"kind": "chat", "document_ids": list(documents), "params": params}
        return client.post("/v1/jobs", json=body)

    first = say(None, document_id).get_json()["id"]
    assert refused(say(first, document_id)) == (422, "invalid_previous_job", [])  # not completed
    record.ledger.complete(story.begin(record.ledger.get(first)), OUTCOME)
    assert say(first, document_id).status_code == 202
    assert refused(say(first, story.read_document().id)) == (422, "invalid_previous_job", [])
    question = story.begin(story.ask(record.documents.get(document_id)))
    record.ledger.complete(question, OUTCOME)
    assert refused(say(question.id, document_id)) == (422, "invalid_previous_job", [])
    assert refused(say(new_id("job"), document_id)) == (404, "job_not_found", [])


def named(url: str = "https://example.org/t", **changes: Any) -> dict[str, Any]:
    parameters = object_of(city={"type": "string"})
    return {"name": "t", "description": "Tells.", "parameters": parameters, "url": url, **changes}


@pytest.mark.parametrize(
    ("tool", "code", "at"),
    [
        (named("http://example.org/t"), "tool_refused", "/params/tools/0/url"),
        (named("https://127.0.0.1/t"), "tool_refused", "/params/tools/0/url"),
        (named("https://localhost/t"), "tool_refused", "/params/tools/0/url"),
        (named("ftp://example.org"), "invalid_request", "/params/tools/0/url"),
        (named(name="two words"), "invalid_request", "/params/tools/0/name"),
        (named(parameters={"type": "array"}), "invalid_request", "/params/tools/0/parameters"),
        (
            named(parameters=object_of(a={"$ref": "https://example.org/schema.json"})),
            "invalid_schema",
            "/params/tools/0/parameters/properties/a/$ref",
        ),
    ],
)
def test_a_tool_that_may_not_be_called_is_refused(
    client: FlaskClient, document_id: str, tool: dict[str, Any], code: str, at: str
) -> None:
    params = {"question": "x", "tools": [tool]}
    response = client.post("/v1/jobs", json={"kind": "ask", "document_ids": [document_id], "params": params})
    assert refused(response) == (422, code, [at])


def test_tools_are_named_once_and_only_by_kinds_that_call_them(client: FlaskClient, document_id: str) -> None:
    for kind, params in (
        ("ask", {"question": "x", "tools": [named()] * 2}),
        ("summarize", {"tools": [named()]}),
    ):
        response = client.post(
            "/v1/jobs", json={"kind": kind, "document_ids": [document_id], "params": params}
        )
        assert response.status_code == 422
    params = {"question": "x", "tools": [named()]}
    response = client.post("/v1/jobs", json={"kind": "ask", "document_ids": [document_id], "params": params})
    assert response.status_code == 202


def test_a_prompt_file_of_the_owner_is_a_kind(settings: Settings, record: Record, document_id: str) -> None:
    folder = settings.data / "prompts"
    folder.mkdir()
    (folder / "obligations.md").write_text("List them.$focus")
    ours = settings.model_copy(update={"prompts": folder})
    app = create_app(assemble(ours, record, broker_answers=lambda: True, migrated=lambda: True))
    body = {"kind": "obligations", "document_ids": [document_id], "params": {"focus": "rent"}}
    assert app.test_client().post("/v1/jobs", json=body).status_code == 202
    assert app.test_client().post("/v1/jobs", json={**body, "kind": "rights"}).status_code == 422
    assert "Obligations: rent" in app.test_client().get("/jobs").text
