"""Jobs over HTTP: asked, waited for, cancelled, retried; their results, batches and deliveries."""

from __future__ import annotations

from typing import Any

import pytest
from application import WaitingTime
from flask.testing import FlaskClient
from services import Doorbell
from story import OUTCOME, Story
from werkzeug.test import TestResponse

from api.services import Services
from jobs.ids import new_id
from jobs.queues import MODEL, READ
from jobs.record import Record
from jobs.status import Status
from jobs.tables import DocumentRow


def ask(client: FlaskClient, *documents: DocumentRow, key: str | None = None, **work: Any) -> TestResponse:
    headers = {"Idempotency-Key": key} if key else {}
    params = {"question": "Is it so?"}
    body = {"kind": "ask", "document_ids": [row.id for row in documents], "params": params, **work}
    return client.post("/v1/jobs", json=body, headers=headers)


def test_a_job_is_accepted_and_rung_for(client: FlaskClient, story: Story, ring: Doorbell) -> None:
    document = story.read_document()
    ring.take()
    response = ask(client, document, metadata={"case": "4711"})
    job = response.get_json()
    assert response.status_code == 202
    assert (response.headers["Location"], response.headers["Retry-After"]) == (f"/v1/jobs/{job['id']}", "1")
    assert (job["status"], job["queue_position"], job["metadata"]) == ("queued", 1, {"case": "4711"})
    assert job["params"]["questions"] == ["Is it so?"]
    assert ring.take() == [(READ, MODEL, job["id"])]
    assert client.get(f"/v1/jobs/{job['id']}").json == job


def test_the_same_key_and_body_find_the_first_job(client: FlaskClient, story: Story, ring: Doorbell) -> None:
    document = story.read_document()
    first = ask(client, document, key="k1")
    ring.take()
    again = ask(client, document, key="k1")
    assert (again.status_code, again.json) == (202, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert ring.take() == []
    assert ask(client, document, key="k2").get_json()["id"] != first.get_json()["id"]


def test_a_key_is_bound_to_its_body_and_path(client: FlaskClient, story: Story) -> None:
    document = story.read_document()
    ask(client, document, key="k")
    other_body = ask(client, document, key="k", metadata={"a": "b"})
    body = {"kind": "ask", "document_ids": [document.id], "params": {"question": "Is it so?"}}
    other_path = client.post("/v1/batches", json=body, headers={"Idempotency-Key": "k"})
    for response in (other_body, other_path):
        assert (response.status_code, response.get_json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("key", ["k" * 256, "caf\u00e9"])
def test_a_key_that_cannot_be_kept_is_refused(client: FlaskClient, story: Story, key: str) -> None:
    response = ask(client, story.read_document(), key=key)
    assert (response.status_code, response.get_json()["errors"][0]["at"]) == (422, "header/Idempotency-Key")


def test_waiting_ends_with_the_job(
    client: FlaskClient, story: Story, record: Record, time: WaitingTime
) -> None:
    job = story.begin()
    time.at(3.0, lambda: record.ledger.complete(job, OUTCOME))
    response = client.get(f"/v1/jobs/{job.id}", headers={"Prefer": "respond-async, wait=100"})
    assert (response.status_code, response.get_json()["status"]) == (200, "completed")
    assert response.headers["Preference-Applied"] == "wait=100"
    assert "Retry-After" not in response.headers
    assert 3.0 <= time.now < 4.0


def test_a_new_job_that_ends_while_waited_for_is_told_as_done(
    client: FlaskClient, story: Story, record: Record, time: WaitingTime
) -> None:
    document = story.read_document()

    def work() -> None:
        [row] = record.ledger.page(limit=1, after=None).rows
        record.ledger.complete(story.begin(row), OUTCOME)

    time.at(1.0, work)
    body = {"kind": "summarize", "document_ids": [document.id]}
    response = client.post("/v1/jobs", json=body, headers={"Prefer": "wait=10"})
    assert (response.status_code, response.get_json()["result"]) == (200, OUTCOME.result)


@pytest.mark.parametrize(("asked", "waited"), [("wait=10", 10), ("wait=9999", 300), ('wait="5"; x=y', 5)])
def test_waiting_ends_when_time_is_up(
    client: FlaskClient, story: Story, time: WaitingTime, asked: str, waited: int
) -> None:
    response = client.get(f"/v1/jobs/{story.begin().id}", headers={"Prefer": asked})
    assert (response.status_code, response.get_json()["status"]) == (200, "in_progress")
    assert (response.headers["Preference-Applied"], response.headers["Retry-After"]) == (
        f"wait={waited}",
        "1",
    )
    assert time.now == pytest.approx(waited)


@pytest.mark.parametrize(
    "asked", ["wait", "wait=-1", "wait=x", "wait=" + "9" * 5000, "return=minimal", "wait=0"]
)
def test_a_preference_that_is_none_is_not_applied(
    client: FlaskClient, story: Story, time: WaitingTime, asked: str
) -> None:
    response = client.get(f"/v1/jobs/{story.begin().id}", headers={"Prefer": asked})
    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers
    assert time.now == 0


def test_who_finds_no_seat_is_answered_at_once(
    client: FlaskClient, story: Story, services: Services, time: WaitingTime
) -> None:
    while services.watch.take_seat():
        pass
    response = client.get(f"/v1/jobs/{story.begin().id}", headers={"Prefer": "wait=10"})
    assert response.status_code == 200
    assert "Preference-Applied" not in response.headers
    assert time.now == 0


def test_the_seat_is_free_again_after_waiting(client: FlaskClient, story: Story) -> None:
    job = story.begin()
    for _ in range(5):
        response = client.get(f"/v1/jobs/{job.id}", headers={"Prefer": "wait=1"})
        assert response.headers["Preference-Applied"] == "wait=1"


def test_the_result_comes_with_its_receipt(client: FlaskClient, story: Story, record: Record) -> None:
    job = story.begin()
    early = client.get(f"/v1/jobs/{job.id}/result")
    assert (early.status_code, early.get_json()["code"]) == (409, "result_not_ready")
    record.ledger.complete(job, OUTCOME)
    assert client.get(f"/v1/jobs/{job.id}/result").json == {
        "object": "result",
        "job_id": job.id,
        "kind": "ask",
        "result": OUTCOME.result,
        "coverage": OUTCOME.coverage,
        "usage": OUTCOME.usage,
    }


def test_jobs_are_listed_by_status_and_batch(client: FlaskClient, story: Story) -> None:
    document = story.read_document()
    queued = story.ask(document)
    running = story.begin(story.ask(document))
    batch = client.post(
        "/v1/batches", json={"kind": "summarize", "document_ids": [document.id, story.read_document().id]}
    ).get_json()
    assert len(client.get("/v1/jobs").get_json()["data"]) == 4
    in_progress = client.get("/v1/jobs?status=in_progress").get_json()["data"]
    assert [job["id"] for job in in_progress] == [running.id]
    of_batch = client.get(batch["links"]["jobs"]).get_json()["data"]
    assert {job["batch_id"] for job in of_batch} == {batch["id"]}
    assert len(of_batch) == 2
    assert client.get(f"/v1/jobs?after={queued.id}").get_json()["data"] == []


def test_a_list_has_all_of_its_jobs_but_the_results_unless_these_are_asked_for(
    client: FlaskClient, story: Story, record: Record
) -> None:
    document = story.read_document()
    body = {"kind": "summarize", "document_ids": [document.id] * 2}
    batch = client.post("/v1/batches", json=body).get_json()["id"]
    for row in record.ledger.page(limit=10, after=None, batch_id=batch).rows:
        record.ledger.complete(story.begin(row), OUTCOME)
    for path in ("/v1/jobs?", f"/v1/jobs?batch_id={batch}&"):
        whole = client.get(f"{path}results=true").get_json()["data"]
        assert whole == [client.get(f"/v1/jobs/{job['id']}").json for job in whole]
        assert [job.pop("result") for job in whole] == [OUTCOME.result] * 2
        assert client.get(path).get_json()["data"] == whole


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_soon(client: FlaskClient, story: Story) -> None:
    waiting, running = story.ask(), story.begin()
    for row, status, name in ((waiting, 200, "cancelled"), (running, 202, "cancelling")):
        for _ in range(2):
            response = client.post(f"/v1/jobs/{row.id}/cancel")
            assert (response.status_code, response.get_json()["status"]) == (status, name)


def test_a_finished_job_is_not_cancelled(client: FlaskClient, story: Story, record: Record) -> None:
    job = story.begin()
    record.ledger.complete(job, OUTCOME)
    response = client.post(f"/v1/jobs/{job.id}/cancel")
    assert (response.status_code, response.get_json()["code"]) == (409, "illegal_move")


def test_a_failed_job_is_retried_once_a_key(
    client: FlaskClient, story: Story, record: Record, ring: Doorbell
) -> None:
    job = story.begin()
    record.ledger.end(job, Status.FAILED, error={"code": "internal_error", "message": "x"})
    ring.take()
    for _ in range(2):
        response = client.post(f"/v1/jobs/{job.id}/retry", headers={"Idempotency-Key": "k"})
        assert (response.status_code, response.get_json()["status"]) == (202, "queued")
    assert ring.take() == [(READ, MODEL, job.id)]
    again = client.post(f"/v1/jobs/{job.id}/retry")
    assert (again.status_code, again.get_json()["code"]) == (409, "illegal_move")


def test_a_full_queue_asks_to_come_back(client: FlaskClient, story: Story, services: Services) -> None:
    too_many = [story.read_document().id] * (services.settings.max_queued + 1)
    response = client.post("/v1/batches", json={"kind": "summarize", "document_ids": too_many})
    assert (response.status_code, response.get_json()["code"]) == (503, "queue_full")
    assert int(response.headers["Retry-After"]) > 0


def test_a_batch_makes_a_job_for_each_document(client: FlaskClient, story: Story, record: Record) -> None:
    documents = [story.read_document() for _ in range(3)]
    body = {"kind": "summarize", "document_ids": [row.id for row in documents], "metadata": {"a": "b"}}
    response = client.post("/v1/batches", json=body, headers={"Idempotency-Key": "k"})
    batch = response.get_json()
    assert (response.status_code, response.headers["Location"]) == (202, f"/v1/batches/{batch['id']}")
    assert (batch["status"], batch["jobs"]) == ("in_progress", {"queued": 3})
    again = client.post("/v1/batches", json=body, headers={"Idempotency-Key": "k"})
    assert (again.json, again.headers["Idempotency-Replayed"]) == (batch, "true")
    for row in record.ledger.page(limit=10, after=None, batch_id=batch["id"]).rows:
        record.ledger.complete(story.begin(row), OUTCOME)
    done = client.get(f"/v1/batches/{batch['id']}").get_json()
    assert (done["status"], done["jobs"]) == ("finished", {"completed": 3})


def test_a_batch_is_made_whole_or_not_at_all(client: FlaskClient, story: Story) -> None:
    body = {"kind": "summarize", "document_ids": [story.read_document().id, new_id("doc")]}
    response = client.post("/v1/batches", json=body)
    assert (response.status_code, response.get_json()["code"]) == (404, "document_not_found")
    assert client.get("/v1/jobs").get_json()["data"] == []


def test_deliveries_are_listed_shown_and_replayed(
    client: FlaskClient, story: Story, record: Record, ring: Doorbell
) -> None:
    delivery = story.deliver()
    url = f"/v1/deliveries/{delivery.id}"
    busy = client.post(f"{url}/replay")
    assert (busy.status_code, busy.get_json()["code"]) == (409, "illegal_move")
    record.deliveries.delivered(
        delivery, {"at": "2026-01-01T00:00:00+00:00", "status_code": 200, "error": None, "seconds": 0.1}
    )
    [listed] = client.get(f"/v1/jobs/{delivery.job_id}/deliveries").get_json()["data"]
    assert (listed["type"], listed["status"]) == ("job.completed", "delivered")
    assert listed["tries"][0]["status_code"] == 200
    assert client.get(url).json == listed
    ring.take()
    replayed = client.post(f"{url}/replay")
    assert (replayed.status_code, replayed.get_json()["status"]) == (202, "queued")
    assert [subject for _, _, subject in ring.take()] == [delivery.id]


@pytest.mark.parametrize(
    ("method", "url", "code"),
    [
        ("GET", "/v1/documents/{}", "document_not_found"),
        ("GET", "/v1/documents/{}/text", "document_not_found"),
        ("DELETE", "/v1/documents/{}", "document_not_found"),
        ("GET", "/v1/jobs/{}", "job_not_found"),
        ("GET", "/v1/jobs/{}/result", "job_not_found"),
        ("GET", "/v1/jobs/{}/events", "job_not_found"),
        ("GET", "/v1/jobs/{}/deliveries", "job_not_found"),
        ("POST", "/v1/jobs/{}/cancel", "job_not_found"),
        ("POST", "/v1/jobs/{}/retry", "job_not_found"),
        ("GET", "/v1/batches/{}", "batch_not_found"),
        ("GET", "/v1/deliveries/{}", "delivery_not_found"),
        ("POST", "/v1/deliveries/{}/replay", "delivery_not_found"),
    ],
)
def test_what_is_not_there_is_named(client: FlaskClient, method: str, url: str, code: str) -> None:
    for stranger in (new_id("doc"), "x", "%00", "a" * 500):
        response = client.open(url.format(stranger), method=method)
        assert (response.status_code, response.get_json()["code"]) == (404, code)
