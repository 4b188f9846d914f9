"""Jobs done from their documents to their end, on a record of one's own and an engine that is scripted."""

from __future__ import annotations

import json
from typing import Any

import parsers
from jobs.objects import Job
from jobs.params import NewJob
from jobs.record import Record
from jobs.status import Status
from worker.engine import Engine
from worker.pipeline import Pipeline
from worker.prompts import Prompts
from worker.tools import HttpCaller
from worker.webhooks import network_policy

SECRET = "whsec_" + "c2VjcmV0" * 4
LOOPBACK = ("127.0.0.0/8",)
PAGES = (
    "The works at Bergen were opened in 1912. They are blue and quite heavy.",
    "The company employs 1,204 people across three plants. Revenue was 55 million.",
)


def add_document(record: Record, *pages: str, name: str = "a.txt") -> str:
    """A document of pages that are parsed already; its id."""
    numbered = tuple(parsers.Page(number, text) for number, text in enumerate(pages, 1))
    return add_parsed(record, parsers.Document(numbered, None, "text/plain", True, (), "text/1"), name=name)


def add_parsed(record: Record, document: parsers.Document, *, name: str) -> str:
    """What a parser made of a file, in the record; its id."""
    with record.files.incoming() as file:
        file.write(f"{name} {hash(document.pages)}".encode())
        row, _ = record.documents.add(file, filename=name, password=None)
    claimed = record.documents.claim(row.id)
    assert claimed is not None
    record.files.save_text(row.sha256, "1", json.dumps(document.to_json()).encode())
    facts = {"media_type": document.media_type, "paged": document.paged, "parser_version": "1"}
    record.documents.ready(claimed, {"pages_total": len(document.pages), **facts})
    return row.id


def run(
    record: Record, engine: Engine, kind: str, *documents: str, prompts: Prompts | None = None, **params: Any
) -> Job:
    """A job of this kind, run to its end."""
    new = NewJob.model_validate({"kind": kind, "document_ids": documents, "params": params})
    row, _ = record.ledger.add(new)
    pipeline(record, engine, prompts).read(row.id)
    return Job.of(record.ledger.get(row.id))


def pipeline(record: Record, engine: Engine, prompts: Prompts | None = None) -> Pipeline:
    caller = HttpCaller(secret=SECRET, policy=network_policy(LOOPBACK), timeout_s=0.5)
    return Pipeline(
        record, engine, prompts or Prompts(), caller, worker_id="w", heartbeat_s=0.005, lease_s=30
    )


def answers(job: Job) -> list[dict[str, Any]]:
    assert job.status == Status.COMPLETED, job.error
    assert job.result is not None
    return list(job.result["answers"])
