"""Webhook deliveries: written with the result they tell of, tried over days, replayed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from services import Doorbell, MovableClock, sweep_of
from sqlalchemy import Engine
from story import ERROR, OUTCOME, Story

from jobs.deliveries import RETRY_AFTER_S
from jobs.errors import DeliveryNotFound, IllegalMove, LeaseLost
from jobs.objects import Delivery, Job
from jobs.queues import DELIVER, QUICK
from jobs.record import Record, open_record
from jobs.status import DeliveryStatus, Status
from jobs.sweep import Sweep
from jobs.tables import DeliveryRow
from settings import Settings

HOOK = "https://example.org/hook"


def entry(clock: MovableClock, status_code: int) -> dict[str, Any]:
    return {"at": clock().isoformat(), "status_code": status_code, "error": None, "seconds": 0.1}


def claimed(record: Record, delivery: DeliveryRow) -> DeliveryRow:
    row = record.deliveries.claim(delivery.id)
    assert row is not None
    return row


def test_a_finished_job_with_a_webhook_leaves_a_delivery_that_is_rung(
    record: Record, story: Story, ring: Doorbell, clock: MovableClock
) -> None:
    job = story.begin(story.ask(webhook_url=HOOK))
    ring.take()
    record.ledger.complete(job, OUTCOME)
    [delivery] = record.deliveries.of_job(job.id)
    assert ring.take() == [(DELIVER, QUICK, delivery.id)]
    assert delivery.url == HOOK
    assert delivery.payload["type"] == "job.completed"
    assert datetime.fromisoformat(delivery.payload["timestamp"]) == clock()
    assert Job.model_validate(delivery.payload["data"]) == Job.of(record.ledger.get(job.id))


def test_a_finished_job_without_a_webhook_leaves_none(record: Record, story: Story) -> None:
    job = story.begin()
    record.ledger.complete(job, OUTCOME)
    assert record.deliveries.of_job(job.id) == []


@pytest.mark.parametrize("status", [Status.FAILED, Status.EXPIRED, Status.CANCELLED])
def test_every_end_of_a_job_is_told(record: Record, story: Story, status: Status) -> None:
    job = story.begin(story.ask(webhook_url=HOOK))
    if status is Status.CANCELLED:
        record.ledger.cancel(job.id)
    record.ledger.end(job, status, error=ERROR if status is Status.FAILED else None)
    [delivery] = record.deliveries.of_job(job.id)
    assert delivery.payload["type"] == f"job.{status}"


def test_ends_no_worker_saw_are_told_too(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    document = story.upload()
    cancelled, lost = story.ask(webhook_url=HOOK), story.ask(document, webhook_url=HOOK)
    record.ledger.cancel(cancelled.id)
    story.fail_to_parse(document)
    expired = story.ask(webhook_url=HOOK, timeout_s=1)
    clock.move(2)
    sweep.run()
    told = [record.deliveries.of_job(job.id)[0].payload["type"] for job in (cancelled, lost, expired)]
    assert told == ["job.cancelled", "job.failed", "job.expired"]


def test_an_end_that_is_refused_leaves_no_delivery(record: Record, story: Story) -> None:
    job = story.begin(story.ask(webhook_url=HOOK))
    record.ledger.give_back(job)
    with pytest.raises(LeaseLost):
        record.ledger.complete(job, OUTCOME)
    assert record.deliveries.of_job(job.id) == []


def test_a_delivery_that_arrived_is_done(record: Record, story: Story, clock: MovableClock) -> None:
    delivery = story.deliver()
    record.deliveries.delivered(delivery, entry(clock, 204))
    row = record.deliveries.get(delivery.id)
    assert (row.status, row.delivered_at) == (DeliveryStatus.DELIVERED, clock())
    assert [tried.status_code for tried in Delivery.of(row).tries] == [204]
    assert record.deliveries.claim(delivery.id) is None


def test_a_delivery_is_tried_over_days_and_then_given_up(
    record: Record, story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    delivery = story.deliver()
    for wait in RETRY_AFTER_S:
        record.deliveries.missed(delivery, entry(clock, 503))
        ring.take()
        clock.move(wait - 1)
        sweep.run()
        assert ring.messages == []
        clock.move(1)
        sweep.run()
        assert ring.take() == [(DELIVER, QUICK, delivery.id)]
        delivery = claimed(record, delivery)
    record.deliveries.missed(delivery, entry(clock, 503))
    row = record.deliveries.get(delivery.id)
    assert row.status == DeliveryStatus.FAILED
    assert len(row.log) == len(RETRY_AFTER_S) + 1
    assert sum(RETRY_AFTER_S) > 2 * 24 * 3600


def test_a_delivery_waiting_for_its_next_try_cannot_be_started_by_a_doubled_message(
    record: Record, story: Story, clock: MovableClock
) -> None:
    delivery = story.deliver()
    record.deliveries.missed(delivery, entry(clock, 503))
    assert record.deliveries.claim(delivery.id) is None
    assert record.deliveries.get(delivery.id).status == DeliveryStatus.QUEUED


def test_a_delivery_the_receiver_wants_no_more_is_given_up_at_once(
    record: Record, story: Story, clock: MovableClock
) -> None:
    delivery = story.deliver()
    record.deliveries.missed(delivery, entry(clock, 410), final=True)
    assert record.deliveries.get(delivery.id).status == DeliveryStatus.FAILED


def test_a_replayed_delivery_is_sent_again_under_its_id_with_fresh_tries(
    record: Record, story: Story, ring: Doorbell, clock: MovableClock
) -> None:
    delivery = story.deliver()
    record.deliveries.missed(delivery, entry(clock, 503), final=True)
    ring.take()
    record.deliveries.replay(delivery.id)
    assert ring.take() == [(DELIVER, QUICK, delivery.id)]
    again = claimed(record, delivery)
    assert (again.id, again.tries, again.attempt, again.payload) == (delivery.id, 1, 2, delivery.payload)
    record.deliveries.delivered(again, entry(clock, 200))
    assert [tried["status_code"] for tried in record.deliveries.get(delivery.id).log] == [503, 200]


def test_replaying_a_delivery_that_waits_for_its_next_try_sends_it_now_and_only_once(
    record: Record, story: Story, sweep: Sweep, ring: Doorbell, clock: MovableClock
) -> None:
    delivery = story.deliver()
    record.deliveries.missed(delivery, entry(clock, 503))
    record.deliveries.replay(delivery.id)
    again = claimed(record, delivery)
    record.deliveries.delivered(again, entry(clock, 200))
    ring.take()
    clock.move(100)
    assert sweep.run().rung == 0


def test_a_delivery_on_its_way_cannot_be_replayed(record: Record, story: Story) -> None:
    delivery = story.deliver()
    with pytest.raises(IllegalMove, match="right now"):
        record.deliveries.replay(delivery.id)


def test_a_delivery_that_does_not_exist_is_not_found(record: Record) -> None:
    with pytest.raises(DeliveryNotFound):
        record.deliveries.get("msg_lost")
    with pytest.raises(DeliveryNotFound):
        record.deliveries.replay("msg_lost")


def test_a_receiver_that_takes_longer_than_a_lease_to_answer_is_not_sent_to_twice(
    settings: Settings, database_engine: Engine, ring: Doorbell, clock: MovableClock
) -> None:
    patient = settings.model_copy(update={"webhook_timeout_s": 60})
    record = open_record(patient, ring=ring, clock=clock, engine=database_engine)
    sending = Story(record).deliver()
    clock.move(patient.lease_s + 25)
    sweep_of(record, ring, patient).run()
    record.deliveries.delivered(sending, entry(clock, 200))
    assert record.deliveries.get(sending.id).status == DeliveryStatus.DELIVERED


def test_a_late_sender_changes_nothing(
    record: Record, story: Story, sweep: Sweep, clock: MovableClock
) -> None:
    slept = story.deliver()
    clock.move(46)
    sweep.run()
    with pytest.raises(LeaseLost):
        record.deliveries.delivered(slept, entry(clock, 200))
    with pytest.raises(LeaseLost):
        record.deliveries.missed(slept, entry(clock, 503))
    assert record.deliveries.get(slept.id).log == []


def test_a_retried_job_tells_of_each_end(record: Record, story: Story) -> None:
    job = story.begin(story.ask(webhook_url=HOOK))
    record.ledger.end(job, Status.FAILED, error=ERROR)
    record.ledger.complete(story.begin(record.ledger.retry(job.id)), OUTCOME)
    types = {delivery.payload["type"] for delivery in record.deliveries.of_job(job.id)}
    assert types == {"job.failed", "job.completed"}
