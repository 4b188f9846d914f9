"""The API's description: every route is in it, and what it promises holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from api import client as client_types
from api import examples
from api.answers import Result
from api.catalogue import ROOMS, entries
from api.quote import Quote
from jobs.objects import Batch, Coverage, Document, DocumentCoverage, Job
from jobs.params import NewBatch, NewJob
from jobs.status import Kind

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spec(client: FlaskClient) -> dict[str, Any]:
    return dict(client.get("/openapi.json").get_json())


def operations(spec: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, op) for path, methods in spec["paths"].items() for method, op in methods.items()]


def test_every_route_is_described(app: APIFlask, spec: dict[str, Any]) -> None:
    routes = {
        (method.lower(), re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint.partition(".")[0] not in {"pages", "reference", "openapi", "static"}
    }
    assert {(method, path) for method, path, _ in operations(spec)} == routes
    assert len(routes) == 21


def test_every_operation_has_its_own_name_and_says_what_it_does(spec: dict[str, Any]) -> None:
    names = [op["operationId"] for _, _, op in operations(spec)]
    assert len(set(names)) == len(names)
    for method, path, op in operations(spec):
        assert op["summary"], (method, path)
        assert op["tags"], (method, path)
        assert all(response["description"] for response in op["responses"].values()), (method, path)


def test_every_success_with_a_body_tells_what_it_is(spec: dict[str, Any]) -> None:
    answers = {
        (op["operationId"], status): set(answer.get("content", {}))
        for _, _, op in operations(spec)
        for status, answer in op["responses"].items()
        if status.startswith("2")
    }
    assert {answer for answer, content in answers.items() if not content} == {
        ("delete_document", "204"),
        ("stream_events", "204"),
    }
    assert {("upload_document", "200"), ("create_job", "200"), ("cancel_job", "200")} <= set(answers)


def test_every_tag_is_named_once(spec: dict[str, Any]) -> None:
    names = [tag["name"] for tag in spec["tags"]]
    assert len(set(names)) == len(names)


def test_every_operation_tells_its_problems(spec: dict[str, Any]) -> None:
    for method, path, op in operations(spec):
        problems = {
            status: answer for status, answer in op["responses"].items() if not status.startswith("2")
        }
        assert "default" in problems, (method, path)
        for answer in problems.values():
            assert answer["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }
        assert ("404" in problems) >= ("{" in path), (method, path)


def test_every_reference_leads_somewhere(spec: dict[str, Any]) -> None:
    references = set(re.findall(r"'\$ref': '([^']+)'", str(spec)))
    schemas = {f"#/components/schemas/{name}" for name in spec["components"]["schemas"]}
    assert references <= schemas
    assert {
        f"#/components/schemas/{name}" for name in ("NewJob", "Job", "AskParams", "Problem")
    } <= references


def test_every_header_that_is_heeded_is_described(spec: dict[str, Any]) -> None:
    described = {
        (op["operationId"], parameter["name"])
        for _, _, op in operations(spec)
        for parameter in op["parameters"]
        if parameter["in"] == "header"
    }
    assert {
        ("create_job", "Prefer"),
        ("get_job", "Prefer"),
        ("create_job", "Idempotency-Key"),
        ("upload_document", "Idempotency-Key"),
        ("retry_job", "Idempotency-Key"),
        ("create_batch", "Idempotency-Key"),
        ("replay_delivery", "Idempotency-Key"),
        ("stream_events", "Last-Event-ID"),
    } == described


def test_it_is_openapi_3_1(spec: dict[str, Any]) -> None:
    assert spec["openapi"].startswith("3.1.")
    assert "servers" not in spec


def test_there_is_a_good_example_of_every_kind() -> None:
    assert set(examples.NEW_JOBS) == set(Kind)
    for example in examples.NEW_JOBS.values():
        NewJob.model_validate(example["value"]).checked()
    NewBatch.model_validate(examples.NEW_BATCH).checked()


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (Document, examples.DOCUMENT),
        (Job, examples.JOB),
        (Batch, examples.BATCH),
        (Result, examples.RESULT),
        (Quote, examples.QUOTE),
    ],
)
def test_every_example_is_complete(model: Any, example: dict[str, Any]) -> None:
    assert model.model_validate(example).model_dump(mode="json") == example


@pytest.mark.parametrize(
    ("described", "typed", "example"),
    [
        (Coverage, client_types.Coverage, examples.RESULT["coverage"]),
        (DocumentCoverage, client_types.DocumentCoverage, examples.RESULT["coverage"]["documents"][0]),
    ],
)
def test_a_receipt_is_the_same_in_description_client_and_example(
    described: Any, typed: Any, example: dict[str, Any]
) -> None:
    assert described.__annotations__.keys() == typed.__annotations__.keys() == example.keys()


def test_the_reference_shows_every_operation_and_object(client: FlaskClient, spec: dict[str, Any]) -> None:
    page = client.get("/docs").text
    for _, path, op in operations(spec):
        assert f'id="{op["operationId"]}"' in page
        assert f"<code>{path}</code>" in page
    for name in spec["components"]["schemas"]:
        assert f'id="{name}"' in page


def test_the_errors_page_shows_every_error(client: FlaskClient) -> None:
    page = client.get("/docs/errors").text
    for entry in entries():
        assert f'id="{entry.code}"' in page


def test_every_error_is_in_the_documentation() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    for entry in entries():
        section = text.partition(f"## {entry.room}\n")[2].partition("\n## ")[0]
        remedy = " ".join(entry.remedy.split())
        assert f"| `{entry.code}` | {entry.status or '–'} | {remedy} |" in section


def test_the_documentation_has_no_error_that_does_not_exist() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    described = re.findall(r"^\| `(\w+)` \|", text.partition("\n## The command line\n")[0], re.MULTILINE)
    assert set(described) == {entry.code for entry in entries()} | {"attempts_exhausted"}
    assert set(re.findall(r"^## (.+)$", text, re.MULTILINE)) >= set(ROOMS)


def test_every_operation_is_in_the_documentation(spec: dict[str, Any]) -> None:
    text = (ROOT / "docs/api.md").read_text()
    for method, path, _ in operations(spec):
        assert f"`{method.upper()} {path}`" in text
