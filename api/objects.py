"""Objects: the API's JSON as a client gets and gives it, typed as dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypedDict, TypeVar

Item = TypeVar("Item")


class Citation(TypedDict):
    """A quotation and where it was found; `page`, `start` and `end` are null when it was not."""

    quote: str
    document_id: str | None
    page: int | None
    place: str
    label: str | None
    start: int | None
    end: int | None
    verified: bool
    match: str
    score: float


class Answer(TypedDict):
    """One answer: to a question, for a field, or the whole of it."""

    title: str | None
    text: str
    found: bool  #: False: the documents do not say
    cut_off: bool  #: it, or what a section had to say, reached `max_tokens` before its end
    citations: list[Citation]


class Result(TypedDict):
    """What a completed job says; `data` is the extracted object, or the differences that were found."""

    answers: list[Answer]
    data: dict[str, Any] | None
    calls: list[dict[str, Any]]  #: of the job's tools


class DocumentCoverage(TypedDict):
    """How much of one document was read."""

    document_id: str
    filename: str
    paged: bool
    pages_read: int
    pages_total: int
    pages_without_text: list[int]
    pages_from_ocr: list[int]


class Coverage(TypedDict):
    """The receipt: what was read, by what, and how many quotations were found again."""

    documents: list[DocumentCoverage]
    tokens: int
    reading: str
    sections: int
    model: str
    weights: str
    parser_versions: list[str]
    prompt: str
    quotes_given: int
    quotes_verified: int


class Usage(TypedDict):
    """Tokens, and where the time went, in seconds."""

    tokens_read: int
    tokens_reused: int
    tokens_written: int
    parse_s: float
    wait_s: float
    read_s: float
    write_s: float
    check_s: float
    total_s: float
    first_token_s: float


class WorkerQuote(TypedDict):
    """What a job would take on one card."""

    worker_id: str
    model: str
    tokens: int
    exact: bool
    tokens_fit: int
    fits: bool
    sections: int
    already_read: bool
    read_s: float | None
    write_s: float | None


class Quote(TypedDict):
    """What a job would take."""

    document_ids: list[str]
    characters: int
    fits: bool
    ahead: int
    workers: list[WorkerQuote]


class Failure(TypedDict):
    """Why a job or a document failed."""

    code: str
    message: str
    document_id: str | None


class Pages(TypedDict):
    """How far parsing is, in pages."""

    done: int
    total: int | None


class Document(TypedDict):
    """An uploaded file."""

    id: str
    object: str
    status: str
    filename: str
    size_bytes: int
    sha256: str
    media_type: str | None
    title: str | None
    paged: bool | None
    pages: Pages
    pages_without_text: list[int]
    pages_from_ocr: list[int]
    characters: int | None
    language: str | None
    warnings: list[str]
    parser_version: str | None
    error: Failure | None
    created_at: str
    parsed_at: str | None
    links: dict[str, str]


class JobProgress(TypedDict):
    """How far a job is; totals are null until they are known."""

    pages_done: int
    pages_total: int | None
    tokens_done: int
    tokens_total: int | None


class ListedJob(TypedDict):
    """One job as it stands in a list: all of it but the result."""

    id: str
    object: str
    kind: str
    status: str
    phase: str | None
    progress: JobProgress
    queue_position: int | None
    eta_s: float | None
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str
    batch_id: str | None
    document_ids: list[str]
    params: dict[str, Any]
    metadata: dict[str, str]
    webhook_url: str | None
    usage: Usage | None
    coverage: Coverage | None
    error: Failure | None
    links: dict[str, str]


class Job(ListedJob):
    """One job."""

    result: Result | None


class Work(TypedDict, total=False):
    """What may be said when a job or a batch is asked for; `params` depend on the kind."""

    params: Mapping[str, Any]
    metadata: Mapping[str, str]
    webhook_url: str
    timeout_s: float


class JobResult(TypedDict):
    """The answer of a completed job, without the rest of it."""

    object: str
    job_id: str
    kind: str
    result: Result
    coverage: Coverage
    usage: Usage


class Batch(TypedDict):
    """The same job for many documents, and how many of its jobs stand where."""

    id: str
    object: str
    kind: str
    status: str
    jobs: dict[str, int]
    created_at: str
    links: dict[str, str]


class Try(TypedDict):
    """One try to bring a webhook."""

    at: str
    status_code: int | None
    error: str | None
    seconds: float


class Delivery(TypedDict):
    """A webhook, and every try to bring it."""

    id: str
    object: str
    job_id: str
    url: str
    type: str
    status: str
    tries: list[Try]
    created_at: str
    delivered_at: str | None
    links: dict[str, str]


class Worker(TypedDict):
    """A card that holds a model."""

    id: str
    object: str
    card: dict[str, Any]
    capacity: dict[str, Any]
    started_at: str
    seen_at: str


class Capacity(TypedDict):
    """Who can work, how much waits, and what the server accepts."""

    object: str
    workers: list[Worker]
    queued: int
    in_progress: int
    max_queued: int
    limits: dict[str, Any]


class PageText(TypedDict):
    """The text of one page."""

    number: int
    label: str | None
    name: str | None
    text: str


class Listing(TypedDict, Generic[Item]):
    """One page of a list; `last_id` is the cursor to the next."""

    object: str
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool
