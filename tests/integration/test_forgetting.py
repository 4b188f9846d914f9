"""A deleted document leaves nothing of what the model read of it: not in memory, not on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from reading import add_document, pipeline
from tiny import Tiny

from jobs.params import NewJob
from jobs.record import Record
from jobs.status import Status
from worker.bootstrap import ModelWorker

PAGE = "The works at Bergen were opened in 1912 and are blue. " * 60


@pytest.fixture
def started(record: Record, tmp_path: Path) -> Iterator[Callable[[str], ModelWorker]]:
    """Starts workers that share a folder; each has a model of its own."""
    workers: list[ModelWorker] = []

    def start(name: str) -> ModelWorker:
        engine = Tiny(disk=tmp_path / "read", revision=name).engine
        workers.append(ModelWorker(record, engine, pipeline(record, engine), name))
        workers[-1].announce(every_s=0.01)
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


def read(record: Record, worker: ModelWorker, *documents: str) -> None:
    params = {"question": "What colour?", "max_tokens": 8}
    job, _ = record.ledger.add(NewJob(kind="ask", document_ids=list(documents), params=params))
    worker.pipeline.read(job.id)
    assert record.ledger.get(job.id).status == Status.COMPLETED


def wait_until_kept(worker: ModelWorker, owners: set[str], prefixes: int) -> None:
    """As many prefixes in memory, whatever is on disk."""
    deadline = time.monotonic() + 60
    while worker.engine.owners() != owners or worker.engine.capacity().prefixes_held != prefixes:
        assert time.monotonic() < deadline, f"{worker.engine.owners()} are kept, not {owners}"
        time.sleep(0.005)


def test_what_was_read_of_a_deleted_document_is_given_up(
    record: Record, started: Callable[[str], ModelWorker], tmp_path: Path
) -> None:
    secret, other = add_document(record, PAGE, name="a.txt"), add_document(record, PAGE * 2, name="b.txt")
    worker = started("one")
    for documents in ([secret], [other], [other, secret]):
        read(record, worker, *documents)
    wait_until_kept(worker, {secret, other}, prefixes=3 + 1)  # and the one of its first token
    record.documents.delete(secret)
    wait_until_kept(worker, {other}, prefixes=1 + 1)
    record.documents.delete(other)
    wait_until_kept(worker, set(), prefixes=0 + 1)
    assert not list(tmp_path.rglob("*.kv"))


def test_workers_give_up_what_others_stored_before_the_deletion(
    record: Record, started: Callable[[str], ModelWorker], tmp_path: Path
) -> None:
    secret = add_document(record, PAGE)
    gone = started("one")
    read(record, gone, secret)
    gone.stop()
    assert list(tmp_path.rglob("*.kv"))
    record.documents.delete(secret)
    wait_until_kept(started("two"), set(), prefixes=1)
    assert not list(tmp_path.rglob("*.kv"))
