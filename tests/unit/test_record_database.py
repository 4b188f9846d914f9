"""Transactions, times and text, alike on both databases."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from services import Doorbell, MovableClock
from story import WORK, Story, question

from jobs.database import Clock
from jobs.errors import DocumentNotFound
from jobs.queues import CPU, MODEL, PARSE, READ
from jobs.record import Record, open_record
from jobs.status import Status
from jobs.sweep import Sweep
from settings import Settings


def test_the_bell_rings_with_the_task_the_queue_and_the_id_alone(story: Story, ring: Doorbell) -> None:
    document = story.upload()
    assert ring.take() == [(PARSE, CPU, document.id)]
    story.parse(document)
    job = story.ask(document)
    assert ring.take() == [(READ, MODEL, job.id)]


def test_the_bell_rings_only_when_the_work_can_be_seen_by_others(
    record: Record, story: Story, settings: Settings
) -> None:
    seen: list[tuple[int, Status] | None] = []

    def ring(task: str, queue: str, subject_id: str) -> bool:
        seen.append(record.ledger.version(subject_id))
        return True

    ringing = open_record(settings, ring=ring)
    ringing.ledger.add(question(story.read_document()))
    ringing.close()
    assert seen == [(1, Status.QUEUED)]


def test_where_nobody_hears_the_bell_it_is_rung_once_and_the_rest_left_to_the_sweep(
    settings: Settings, story: Story, ring: Doorbell, sweep: Sweep, clock: MovableClock
) -> None:
    documents = [story.read_document().id for _ in range(3)]
    ring.take()
    tries: list[str] = []

    def unheard(task: str, queue: str, subject_id: str) -> bool:
        tries.append(subject_id)
        return False

    deaf = open_record(settings, ring=unheard, clock=clock)
    batch, _ = deaf.ledger.add_batch(WORK, documents)
    asked = [row.id for row in deaf.ledger.page(limit=10, after=None, batch_id=batch.id).rows]
    deaf.close()
    assert len(tries) == 1
    clock.move(settings.ring_again_s + 1)
    assert sweep.run().rung == 3
    assert sorted(ring.take()) == sorted((READ, MODEL, job_id) for job_id in asked)


def test_what_is_rolled_back_is_not_rung(record: Record, story: Story, ring: Doorbell) -> None:
    document = story.read_document()
    ring.take()
    with suppress(RuntimeError), record.database.transaction() as session:
        record.database.post(session, READ, MODEL, document.id)
        raise RuntimeError("a power cut")
    assert ring.messages == []


def test_times_come_back_as_the_same_instant_in_utc(
    open_again: Callable[[Clock], Record], clock: MovableClock
) -> None:
    here = clock().astimezone(timezone(timedelta(hours=5, minutes=45)))
    document = Story(open_again(MovableClock(here))).upload()
    read = open_again(clock).documents.get(document.id)
    assert read.created_at == here
    assert read.created_at.tzinfo is UTC


def test_times_keep_their_microseconds(record: Record, story: Story, clock: MovableClock) -> None:
    clock.move(0.000001 - clock().microsecond / 1e6)
    document = story.upload()
    assert record.documents.get(document.id).created_at.microsecond == clock().microsecond == 1


def test_the_clock_of_a_process_knows_its_zone(settings: Settings, ring: Doorbell) -> None:
    record = open_record(settings, ring=ring)
    before = datetime.now(UTC)
    created = Story(record).upload().created_at
    record.close()
    assert before <= created <= datetime.now(UTC)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"], ids=["NUL", "a lone surrogate"])
def test_an_id_that_no_database_could_hold_is_an_id_that_does_not_exist(record: Record, name: str) -> None:
    with pytest.raises(DocumentNotFound):
        record.documents.get(name)
    assert record.documents.page(limit=10, after=name).rows == []


def test_text_that_no_database_could_hold_is_kept_as_far_as_it_goes(record: Record, story: Story) -> None:
    job = story.begin(story.ask(metadata={"who": "a\0b\ud800"}))
    document = story.upload(password="a\0b\ud800")
    claimed = record.documents.claim(document.id)
    assert claimed is not None
    assert claimed.password == "a\ufffdb?"
    assert record.ledger.get(job.id).meta == {"who": "a\0b\ud800"}
