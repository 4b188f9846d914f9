"""Jobs: asked, waiting for their documents, told how far, finished."""

from __future__ import annotations

import pytest
from services import Doorbell, MovableClock
from sqlalchemy import Engine
from story import ERROR, OUTCOME, WORK, Story, question

from jobs.errors import DocumentFailed, DocumentNotFound, IllegalMove, JobNotFound, QueueFull
from jobs.ledger import Progress
from jobs.objects import Job
from jobs.params import NewJob
from jobs.queues import MODEL, READ
from jobs.record import Record, open_record
from jobs.status import Kind, Phase, Status
from jobs.sweep import Sweep
from jobs.tables import JobRow
from settings import Settings


def test_a_job_on_a_ready_document_is_queued_and_rung(
    story: Story, ring: Doorbell, clock: MovableClock
) -> None:
    document = story.read_document()
    ring.take()
    job = story.ask(document, metadata={"who": "me"}, timeout_s=60)
    assert (job.status, job.phase, job.pages_total, job.version) == (Status.QUEUED, None, 3, 1)
    assert (job.expires_at - clock()).total_seconds() == 60
    assert job.params["questions"] == ["Is it so?"]
    assert ring.take() == [(READ, MODEL, job.id)]


def test_a_job_without_a_time_limit_gets_that_of_the_server(story: Story, clock: MovableClock) -> None:
    assert (story.ask().expires_at - clock()).total_seconds() == 3600


def test_a_job_keeps_its_documents_in_the_order_asked_for(record: Record, story: Story) -> None:
    documents = [story.read_document() for _ in range(4)]
    documents = [documents[2], documents[0], documents[3], documents[1]]
    job = story.ask(*documents)
    assert Job.of(record.ledger.get(job.id)).document_ids == [document.id for document in documents]


def test_a_job_for_a_document_that_does_not_exist_is_refused(
    record: Record, story: Story, ring: Doorbell
) -> None:
    document = story.read_document()
    ring.take()
    lost = NewJob(kind=Kind.ASK, params={"question": "?"}, document_ids=[document.id, "doc_lost"])
    with pytest.raises(DocumentNotFound, match="doc_lost"):
        record.ledger.add(lost)
    assert record.ledger.page(limit=10, after=None).rows == []
    assert ring.messages == []


def test_a_job_for_a_document_that_failed_is_refused_and_told_why(record: Record, story: Story) -> None:
    document = story.fail_to_parse(story.upload())
    with pytest.raises(DocumentFailed, match=rf"\({document.filename}\).*{ERROR['message']}"):
        record.ledger.add(question(document))


def test_a_job_that_does_not_exist_is_not_found(record: Record) -> None:
    with pytest.raises(JobNotFound, match="job_lost"):
        record.ledger.get("job_lost")
    with pytest.raises(JobNotFound, match="job_lost"):
        record.ledger.cancel("job_lost")
    with pytest.raises(JobNotFound, match="job_lost"):
        record.ledger.retry("job_lost")
    assert record.ledger.version("job_lost") is None


# -- waiting for documents ---------------------------------------------------------------------------------


def test_a_job_waits_until_all_its_documents_are_ready(record: Record, story: Story, ring: Doorbell) -> None:
    first, second = story.upload(), story.upload()
    job = story.ask(first, second)
    assert job.phase == Phase.PARSING
    story.parse(second)
    assert record.ledger.get(job.id).phase == Phase.PARSING
    ring.take()
    story.parse(first)
    row = record.ledger.get(job.id)
    assert (row.status, row.phase, row.pages_total) == (Status.QUEUED, None, 6)
    assert row.version > job.version
    assert ring.take() == [(READ, MODEL, job.id)]


def test_a_document_named_twice_counts_twice_whether_it_was_ready_or_not(
    record: Record, story: Story
) -> None:
    unread = story.upload()
    waiting = story.ask(unread, unread)
    ready = story.parse(unread)
    assert record.ledger.get(waiting.id).pages_total == story.ask(ready, ready).pages_total == 6


def test_a_job_fails_when_a_document_it_waits_for_fails(record: Record, story: Story) -> None:
    fine, broken = story.upload(), story.upload()
    job = story.ask(fine, broken)
    story.parse(fine)
    story.fail_to_parse(broken)
    row = record.ledger.get(job.id)
    assert row.status == Status.FAILED
    message = f"{broken.filename}: {ERROR['message']}"  # of several, which
    assert row.error == {"code": ERROR["code"], "message": message, "document_id": broken.id}


def test_a_message_cannot_start_a_job_whose_documents_are_not_there(record: Record, story: Story) -> None:
    job = story.ask(story.upload())
    assert record.ledger.claim(job.id, worker_id="card-0") is None
    assert record.ledger.get(job.id).phase == Phase.PARSING


def test_being_told_twice_that_a_document_is_ready_rings_once(
    record: Record, story: Story, ring: Doorbell
) -> None:
    document = story.upload()
    job = story.ask(document)
    story.parse(document)
    ring.take()
    record.ledger.documents_changed([job.id, job.id, "job_lost"])
    assert ring.messages == []


# -- limits and places in the queue ------------------------------------------------------------------------


def test_the_queue_takes_no_more_than_its_limit(
    settings: Settings, ring: Doorbell, database_engine: Engine
) -> None:
    short = settings.model_copy(update={"max_queued": 3})
    record = open_record(short, ring=ring, engine=database_engine)
    story = Story(record)
    document = story.read_document()
    record.ledger.add_batch(WORK, [document.id] * 2)
    last = story.ask(document)
    with pytest.raises(QueueFull, match="takes 3"):
        record.ledger.add(question(document))
    story.begin(last)
    story.ask(document)


def test_the_place_in_the_queue_counts_those_before(record: Record, story: Story) -> None:
    document = story.read_document()
    jobs = [story.ask(document) for _ in range(3)]
    assert [record.ledger.queue_position(job) for job in jobs] == [1, 2, 3]
    begun = story.begin(jobs[0])
    assert [record.ledger.queue_position(job) for job in (begun, *jobs[1:])] == [None, 1, 2]


def test_a_job_that_is_queued_again_comes_last(record: Record, story: Story) -> None:
    document = story.read_document()
    cancelled, given_back, waiting = (story.ask(document) for _ in range(3))
    record.ledger.cancel(cancelled.id)
    record.ledger.give_back(story.begin(given_back))
    again = record.ledger.retry(cancelled.id)
    queue = [waiting, record.ledger.get(given_back.id), again]
    assert [record.ledger.queue_position(job) for job in queue] == [1, 2, 3]


def test_a_job_whose_document_is_not_read_yet_comes_after_those_that_can_begin(
    record: Record, story: Story
) -> None:
    unread = story.upload()
    one, two = (story.ask(unread) for _ in range(2))
    ready = story.ask()
    positions = [record.ledger.queue_position(job) for job in (ready, one, two)]
    assert positions in ([1, 2, 3], [1, 3, 2])  # of one millisecond, they have no order
    story.parse(unread)
    after = {record.ledger.queue_position(record.ledger.get(job.id)) for job in (one, two)}
    assert after == {2, 3}


def test_unfinished_jobs_are_counted_by_status(record: Record, story: Story) -> None:
    story.ask()
    story.begin()
    record.ledger.cancel(story.begin().id)
    record.ledger.cancel(story.ask().id)
    record.ledger.complete(story.begin(), OUTCOME)
    assert record.ledger.counts() == {Status.QUEUED: 1, Status.IN_PROGRESS: 1, Status.CANCELLING: 1}


# -- told how far, finished --------------------------------------------------------------------------------


def test_a_heartbeat_tells_how_far_the_job_is(record: Record, story: Story) -> None:
    job = story.begin()
    wanted = record.ledger.beat(
        job, Progress(Phase.WRITING, pages_done=2, tokens_done=5, tokens_total=9, eta_s=1.5, draft="Ye")
    )
    row = record.ledger.get(job.id)
    assert not wanted
    assert (row.phase, row.pages_done, row.pages_total) == (Phase.WRITING, 2, 3)
    assert (row.tokens_done, row.tokens_total, row.eta_s, row.draft) == (5, 9, 1.5, "Ye")


def test_a_heartbeat_is_a_new_version_only_if_something_changed(record: Record, story: Story) -> None:
    job = story.begin()
    progress = Progress(Phase.READING, pages_done=1, tokens_total=9)
    record.ledger.beat(job, progress)
    version = record.ledger.version(job.id)
    record.ledger.beat(job, progress)
    assert record.ledger.version(job.id) == version
    record.ledger.beat(job, Progress(Phase.READING, pages_done=2))
    assert record.ledger.version(job.id) == (job.version + 2, Status.IN_PROGRESS)


def test_a_completed_job_has_its_answer_and_no_draft(
    record: Record, story: Story, clock: MovableClock
) -> None:
    job = story.begin()
    record.ledger.beat(job, Progress(Phase.WRITING, tokens_done=8, tokens_total=9, draft="Ye", eta_s=1.0))
    clock.move(5)
    record.ledger.complete(job, OUTCOME)
    row = record.ledger.get(job.id)
    assert row.status == Status.COMPLETED
    assert (row.result, row.coverage, row.usage) == (OUTCOME.result, OUTCOME.coverage, OUTCOME.usage)
    assert (row.pages_done, row.tokens_done) == (3, 9)
    assert (row.draft, row.eta_s, row.phase, row.lease_until) == (None, None, None, None)
    assert row.started_at is not None
    assert row.finished_at == clock()
    assert (row.finished_at - row.started_at).total_seconds() == 5


def test_a_failed_job_tells_why(record: Record, story: Story) -> None:
    job = story.begin()
    record.ledger.end(job, Status.FAILED, error=ERROR)
    shown = Job.of(record.ledger.get(job.id))
    assert shown.error is not None
    assert (shown.error.code, shown.error.message) == (ERROR["code"], ERROR["message"])


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.QUEUED, Status.IN_PROGRESS, Status.CANCELLING])
def test_a_job_does_not_end_as_something_that_is_no_such_end(
    record: Record, story: Story, status: Status
) -> None:
    job = story.begin()
    with pytest.raises(IllegalMove, match=status):
        record.ledger.end(job, status)
    assert record.ledger.get(job.id).status == Status.IN_PROGRESS


# -- cancelled, retried, given back ------------------------------------------------------------------------


def test_cancelling_a_queued_job_is_done_at_once(
    record: Record, story: Story, ring: Doorbell, sweep: Sweep, clock: MovableClock
) -> None:
    job = story.ask()
    ring.take()
    assert record.ledger.cancel(job.id).status == Status.CANCELLED
    clock.move(1000)
    assert sweep.run().rung == 0
    assert record.ledger.claim(job.id, worker_id="card-0") is None


def test_cancelling_a_running_job_is_told_with_the_next_heartbeat(record: Record, story: Story) -> None:
    job = story.begin()
    assert record.ledger.cancel(job.id).status == Status.CANCELLING
    assert record.ledger.beat(job, Progress(Phase.READING)) is True
    record.ledger.end(job, Status.CANCELLED)
    assert record.ledger.get(job.id).status == Status.CANCELLED


def test_cancelling_again_is_harmless(record: Record, story: Story) -> None:
    job = story.begin()
    version = record.ledger.cancel(job.id).version
    assert record.ledger.cancel(job.id).version == version
    record.ledger.end(job, Status.CANCELLED)
    assert record.ledger.cancel(job.id).status == Status.CANCELLED


def test_a_job_that_finished_before_it_heard_of_the_cancelling_keeps_its_answer(
    record: Record, story: Story
) -> None:
    job = story.begin()
    record.ledger.cancel(job.id)
    record.ledger.complete(job, OUTCOME)
    assert record.ledger.get(job.id).result == OUTCOME.result


def test_a_finished_job_cannot_be_cancelled(record: Record, story: Story) -> None:
    job = story.begin()
    record.ledger.complete(job, OUTCOME)
    with pytest.raises(IllegalMove, match="completed"):
        record.ledger.cancel(job.id)


def test_a_retried_job_starts_anew(record: Record, story: Story, ring: Doorbell, clock: MovableClock) -> None:
    job = story.begin(story.ask(timeout_s=100))
    record.ledger.beat(job, Progress(Phase.WRITING, pages_done=2, tokens_done=5, draft="Ye"))
    record.ledger.end(job, Status.FAILED, error=ERROR)
    clock.move(1000)
    ring.take()
    row = record.ledger.retry(job.id)
    assert (row.status, row.error, row.tries) == (Status.QUEUED, None, 0)
    assert (row.pages_done, row.tokens_done) == (0, 0)
    assert (row.started_at, row.finished_at, row.worker_id) == (None, None, None)
    assert ring.take() == [(READ, MODEL, job.id)]
    assert story.begin(row).attempt == 2


def test_a_job_has_the_same_time_after_each_retry(record: Record, story: Story, clock: MovableClock) -> None:
    job = story.ask(timeout_s=100)
    for _ in range(3):
        record.ledger.end(story.begin(job), Status.FAILED, error=ERROR)
        clock.move(1000)
        row = record.ledger.retry(job.id)
        assert (row.expires_at - clock()).total_seconds() == 100


def test_retrying_a_job_parses_the_document_it_failed_for_again(
    record: Record, story: Story, ring: Doorbell
) -> None:
    document = story.upload()
    job = story.ask(document)
    story.fail_to_parse(document)
    ring.take()
    assert record.ledger.retry(job.id).phase == Phase.PARSING
    assert record.ledger.claim(job.id, worker_id="card-0") is None
    story.parse(document)
    assert ring.take()[-1] == (READ, MODEL, job.id)
    assert story.begin(job).status == Status.IN_PROGRESS


def test_a_job_given_back_is_queued_and_the_try_does_not_count(
    record: Record, story: Story, ring: Doorbell
) -> None:
    job = story.ask()
    for _ in range(5):
        ring.take()
        record.ledger.give_back(story.begin(job))
        row = record.ledger.get(job.id)
        assert (row.status, row.tries, row.worker_id, row.lease_until) == (Status.QUEUED, 0, None, None)
        assert ring.take() == [(READ, MODEL, job.id)]


def test_a_job_given_back_while_it_is_cancelled_is_cancelled(record: Record, story: Story) -> None:
    job = story.begin()
    record.ledger.cancel(job.id)
    record.ledger.give_back(job)
    assert record.ledger.get(job.id).status == Status.CANCELLED


# -- conversations -----------------------------------------------------------------------------------------


def chat(record: Record, document_id: str, previous: JobRow | None = None) -> JobRow:
    params = {"message": "And then?", "previous_job_id": previous.id if previous else None}
    return record.ledger.add(NewJob(kind=Kind.CHAT, params=params, document_ids=[document_id]))[0]


def test_a_conversation_is_the_turns_before_oldest_first(record: Record, story: Story) -> None:
    document = story.read_document()
    first = chat(record, document.id)
    second = chat(record, document.id, first)
    third = chat(record, document.id, second)
    assert record.ledger.conversation(first) == []
    assert [turn.id for turn in record.ledger.conversation(third)] == [first.id, second.id]
