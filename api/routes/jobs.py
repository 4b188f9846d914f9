"""Jobs: ask, list, look at, wait for, cancel, retry; their results, events and deliveries."""

from __future__ import annotations

from typing import cast

from apiflask import APIBlueprint
from flask import Response, request

from api.answers import DeliveryList, JobList, JobQuery, Result
from api.events import Mark, events, shown
from api.examples import JOB, NEW_JOBS, QUOTE, RESULT
from api.openapi import also, operation
from api.problems import (
    InvalidPreviousJob,
    InvalidRequest,
    InvalidSchema,
    TextNotReady,
    ToolRefused,
    TooManyStreams,
    WebhookRefused,
)
from api.quote import Quote, quote
from api.request import Request
from api.services import services
from jobs.errors import (
    DocumentFailed,
    DocumentNotFound,
    IdempotencyKeyReused,
    IllegalMove,
    JobNotFound,
    QueueFull,
    ResultNotReady,
)
from jobs.objects import Delivery, Job, ListedJob
from jobs.page import Page
from jobs.params import NewJob
from jobs.status import FINAL, Status
from jobs.tables import JobRow
from worker.engine.errors import UnsupportedSchema
from worker.errors import InstructionTooLong

blueprint = APIBlueprint("jobs", __name__, url_prefix="/v1/jobs", tag="Jobs")

quotes = APIBlueprint("quotes", __name__, url_prefix="/v1/quote", tag="Jobs")

STREAM = (
    "Events `job` (data: the job, whenever its version changed) and `text` (data: `{offset, text}`, what was "
    "added to the draft of the answer). The id of an event is `version.offset`; `Last-Event-ID` goes on from "
    "there. Comments keep the line open. The stream ends after a final `job`."
)

#: Seconds after which an unfinished job is worth another look.
LOOK_AGAIN_S = 1


@blueprint.post("")
@operation(
    DocumentFailed,
    DocumentNotFound,
    IdempotencyKeyReused,
    InstructionTooLong,
    InvalidPreviousJob,
    InvalidRequest,
    InvalidSchema,
    QueueFull,
    ToolRefused,
    UnsupportedSchema,
    WebhookRefused,
    responses={200: also(Job, "With `Prefer: wait`: the job ended meanwhile.")},
)
@blueprint.input(NewJob, arg_name="new", examples=NEW_JOBS)
@blueprint.output(Job, 202, description="Queued.", example=JOB)
def create_job(new: NewJob) -> tuple[Job, int, dict[str, str]]:
    """Ask something about documents."""
    key = cast(Request, request).key()
    services().admission.check(new, new.document_ids)
    row, replayed = services().record.ledger.add(new, key=key)
    job, status, headers = _waited_for(row, unfinished=202)
    replay = {"Idempotency-Replayed": "true"} if replayed else {}
    return job, status, {"Location": job.links["self"], **headers, **replay}


@blueprint.get("")
@operation()
@blueprint.input(JobQuery, location="query", arg_name="query")
@blueprint.output(JobList)
def list_jobs(query: JobQuery) -> JobList:
    """List jobs, newest first."""
    page = services().record.ledger.page(**dict(query))
    return JobList.of(page, Job.of if query.results else ListedJob.of)


@quotes.post("")
@operation(
    DocumentFailed,
    DocumentNotFound,
    InstructionTooLong,
    InvalidPreviousJob,
    InvalidRequest,
    InvalidSchema,
    TextNotReady,
    ToolRefused,
    UnsupportedSchema,
    WebhookRefused,
)
@quotes.input(NewJob, arg_name="new", examples=NEW_JOBS)
@quotes.output(Quote, example=QUOTE)
def create_quote(new: NewJob) -> Quote:
    """Ask what a job would take: tokens, whether they fit, seconds. Nothing is queued."""
    services().admission.check(new, new.document_ids)
    return quote(services().record, new, new.document_ids)


@blueprint.get("/<job_id>")
@operation(JobNotFound)
@blueprint.output(Job, example=JOB)
def get_job(job_id: str) -> tuple[Job, int, dict[str, str]]:
    """Look at a job, or wait for its end."""
    return _waited_for(services().record.ledger.get(job_id), unfinished=200)


@blueprint.get("/<job_id>/result")
@operation(JobNotFound, ResultNotReady)
@blueprint.output(Result, example=RESULT)
def get_result(job_id: str) -> Result:
    """Fetch what a completed job found."""
    row = services().record.ledger.get(job_id)
    if row.status != Status.COMPLETED or row.result is None:
        then = "It can be retried." if row.status in FINAL else "Wait for status `completed`."
        raise ResultNotReady(f"The job is {row.status} and has no result. {then}")
    return Result(job_id=row.id, kind=row.kind, result=row.result, coverage=row.coverage, usage=row.usage)


@blueprint.post("/<job_id>/cancel")
@operation(JobNotFound, IllegalMove, responses={200: also(Job, "It is cancelled.")})
@blueprint.output(Job, 202, description="It will be cancelled within one step of the model.", example=JOB)
def cancel_job(job_id: str) -> tuple[Job, int]:
    """Cancel a job. Again does no harm."""
    row = services().record.ledger.cancel(job_id)
    return Job.of(row), 200 if row.status == Status.CANCELLED else 202


@blueprint.post("/<job_id>/retry")
@operation(JobNotFound, IllegalMove, IdempotencyKeyReused)
@blueprint.output(Job, 202, description="Queued again.", example=JOB)
def retry_job(job_id: str) -> tuple[Job, int, dict[str, str]]:
    """Queue a failed, cancelled or expired job again."""
    row = services().record.ledger.retry(job_id, key=cast(Request, request).key())
    job = shown(services().record.ledger, row)
    return job, 202, {"Location": job.links["self"], "Retry-After": str(LOOK_AGAIN_S)}


@blueprint.get("/<job_id>/events")
@operation(
    JobNotFound,
    TooManyStreams,
    responses={
        200: {"description": STREAM, "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The job is final and its last event was seen: do not come back."},
    },
)
def stream_events(job_id: str) -> Response:
    """Follow a job as it happens (server-sent events)."""
    ledger, watch = services().record.ledger, services().watch
    row, mark = ledger.get(job_id), Mark.parse(request.headers.get("Last-Event-ID"))
    if row.status in FINAL and row.version == mark.version:
        return Response(status=204)
    if not watch.take_seat():
        raise TooManyStreams
    response = Response(events(ledger, watch, row, mark), content_type="text/event-stream; charset=utf-8")
    response.headers.update({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
    response.call_on_close(watch.leave_seat)
    return response


@blueprint.get("/<job_id>/deliveries")
@operation(JobNotFound)
@blueprint.output(DeliveryList)
def list_deliveries(job_id: str) -> DeliveryList:
    """List the webhooks a job sent, oldest first."""
    record = services().record
    record.ledger.get(job_id)
    return DeliveryList.of(Page(record.deliveries.of_job(job_id), has_more=False), Delivery.of)


def _waited_for(row: JobRow, *, unfinished: int) -> tuple[Job, int, dict[str, str]]:
    """The answer about a job, after waiting for its end if the client prefers that and a seat is free."""
    ledger, watch = services().record.ledger, services().watch
    headers = {}
    if (wait_s := cast(Request, request).wait_s) and watch.take_seat():
        try:
            watch.finish(row.id, wait_s)
        finally:
            watch.leave_seat()
        row = ledger.get(row.id)
        headers["Preference-Applied"] = f"wait={wait_s}"
    if row.status in FINAL:
        return shown(ledger, row), 200, headers
    return shown(ledger, row), unfinished, {**headers, "Retry-After": str(LOOK_AGAIN_S)}
