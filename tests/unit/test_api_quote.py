"""Quotes: what a job would take, told before it runs, from what was measured."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from services import MovableClock
from story import Story

from jobs.ledger import Outcome
from jobs.record import Record
from jobs.tables import DocumentRow

CARD = {"name": "m", "revision": "1", "window": 8_192}
CAPACITY = {"tokens_fit": 8_000, "read_tokens_per_s": 100.0, "write_tokens_per_s": 10.0}


@pytest.fixture
def book(story: Story, record: Record) -> DocumentRow:
    """A document of 9,000 characters."""
    claimed = record.documents.claim(story.upload().id)
    assert claimed is not None
    record.documents.ready(claimed, {"characters": 9_000, "pages_total": 3, "parser_version": "1"})
    return record.documents.get(claimed.id)


def quoted(client: FlaskClient, *documents: DocumentRow, **params: Any) -> dict[str, Any]:
    ids = [document.id for document in documents]
    body = {"kind": "ask", "document_ids": ids, "params": {"question": "Why?", **params}}
    response = client.post("/v1/quote", json=body)
    assert response.status_code == 200, response.text
    return dict(response.get_json())


def finish(story: Story, record: Record, document: DocumentRow, *, tokens: int, worker: str = "w") -> None:
    """A job on a document, completed by a worker that counted its tokens."""
    job = story.begin(story.ask(document), worker=worker)
    coverage = {"tokens": tokens, "model": "m@1"}
    record.ledger.complete(job, Outcome(result={}, coverage=coverage, usage={"tokens_written": 50}))


def test_a_document_nobody_has_read_is_estimated(
    client: FlaskClient, record: Record, book: DocumentRow
) -> None:
    record.workers.seen("w", card=CARD, capacity=CAPACITY)
    quote = quoted(client, book)
    [worker] = quote["workers"]
    assert (quote["characters"], quote["fits"]) == (9_000, True)
    assert (worker["tokens"], worker["exact"], worker["already_read"]) == (3_000, False, False)
    assert (worker["sections"], worker["read_s"], worker["write_s"]) == (1, 30.0, 51.2)


def test_what_other_documents_took_is_asked_for_at_once(
    client: FlaskClient, record: Record, story: Story, book: DocumentRow, statements: list[str]
) -> None:
    for _ in range(5):
        finish(story, record, story.read_document(), tokens=10)
    statements.clear()
    quoted(client, book)
    assert sum("FROM documents" in statement for statement in statements) == 2


def test_a_document_that_was_read_is_known_exactly(
    client: FlaskClient, record: Record, story: Story, book: DocumentRow
) -> None:
    record.workers.seen("w", card=CARD, capacity=CAPACITY)
    finish(story, record, book, tokens=2_250)
    [worker] = quoted(client, book)["workers"]
    assert (worker["tokens"], worker["exact"]) == (2_250, True)
    assert (worker["already_read"], worker["read_s"], worker["write_s"]) == (True, 0.0, 5.0)


def test_what_another_card_has_read_is_counted_but_not_read_here(
    client: FlaskClient, record: Record, story: Story, clock: MovableClock, book: DocumentRow
) -> None:
    finish(story, record, book, tokens=2_250, worker="w")
    clock.move(10)
    record.workers.seen("w", card=CARD, capacity=CAPACITY)  # started since
    record.workers.seen("x", card=CARD, capacity=CAPACITY)
    for worker in quoted(client, book)["workers"]:
        assert (worker["exact"], worker["already_read"], worker["read_s"]) == (True, False, 22.5)


def test_what_does_not_fit_is_told_with_its_sections(
    client: FlaskClient, record: Record, book: DocumentRow
) -> None:
    record.workers.seen("w", card=CARD, capacity={**CAPACITY, "tokens_fit": 2_000})
    quote = quoted(client, book)
    assert not quote["fits"]
    assert quote["workers"][0]["sections"] == 2


def test_a_quote_queues_nothing(client: FlaskClient, book: DocumentRow) -> None:
    quoted(client, book)
    assert client.get("/v1/jobs").get_json()["data"] == []


def test_a_quote_refuses_what_a_job_would_be_refused_for(client: FlaskClient, book: DocumentRow) -> None:
    body = {"kind": "ask", "document_ids": [book.id], "params": {}}
    assert client.post("/v1/quote", json=body).status_code == 422


def test_a_document_still_being_parsed_has_no_quote_yet(client: FlaskClient, story: Story) -> None:
    body = {"kind": "ask", "document_ids": [story.upload().id], "params": {"question": "Why?"}}
    response = client.post("/v1/quote", json=body)
    assert (response.status_code, response.get_json()["code"]) == (409, "text_not_ready")
