"""The objects the API shows and webhooks carry, each made from its row; their schemas are the contract."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, with_config
from typing_extensions import TypedDict

from jobs.status import UNFINISHED, DeliveryStatus, DocumentStatus, Phase, Status
from jobs.tables import BatchRow, DeliveryRow, DocumentRow, JobRow, WorkerRow


class Error(BaseModel):
    """Why something failed: a stable code, and what to do."""

    code: str
    message: str
    document_id: str | None = None


class Pages(BaseModel):
    """How far a document's parsing is, in pages."""

    done: int
    total: int | None


class Document(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["document"] = "document"
    status: DocumentStatus
    filename: str
    size_bytes: int
    sha256: str
    media_type: str | None
    title: str | None
    paged: bool | None = Field(description="False: the file has sections, not sheets of paper.")
    pages: Pages
    pages_without_text: list[int]
    pages_from_ocr: list[int] = Field(description="Pages whose text was recognised in pictures.")
    characters: int | None
    language: str | None = Field(description="ISO 639-1 code of the language of most of the text.")
    warnings: list[str]
    parser_version: str | None
    error: Error | None
    created_at: datetime
    parsed_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: DocumentRow) -> Document:
        """The public side of a row."""
        return cls(
            id=row.id,
            status=DocumentStatus(row.status),
            filename=row.filename,
            size_bytes=row.size_bytes,
            sha256=row.sha256,
            media_type=row.media_type,
            title=row.title,
            paged=row.paged,
            pages=Pages(done=row.pages_done, total=row.pages_total),
            pages_without_text=row.pages_without_text or [],
            pages_from_ocr=row.ocr_pages or [],
            characters=row.characters,
            language=row.language,
            warnings=row.warnings or [],
            parser_version=row.parser_version,
            error=Error(**row.error) if row.error else None,
            created_at=row.created_at,
            parsed_at=row.parsed_at,
            links={"self": f"/v1/documents/{row.id}", "text": f"/v1/documents/{row.id}/text"},
        )


class DocumentCoverage(TypedDict):
    """How much of one document was read."""

    document_id: str
    filename: str
    paged: bool
    pages_read: int
    pages_total: int
    pages_without_text: list[int]
    pages_from_ocr: list[int]


@with_config(ConfigDict(extra="allow"))
class Coverage(TypedDict):
    """The receipt: what was read, how and by what, and how many quotations were found again."""

    documents: list[DocumentCoverage]
    tokens: int
    reading: Literal["whole", "sections"]
    sections: int
    model: str
    weights: str
    parser_versions: list[str]
    prompt: str
    quotes_given: int
    quotes_verified: int


#: As it was when the job was done: earlier versions wrote down less.
Receipt = Annotated[Coverage, SkipValidation]


class JobProgress(BaseModel):
    """How far a job is. Totals are null until they are known."""

    pages_done: int
    pages_total: int | None
    tokens_done: int
    tokens_total: int | None


class ListedJob(BaseModel):
    """One job as it stands in a list: all of it but the result."""

    id: str
    object: Literal["job"] = "job"
    kind: str
    status: Status
    phase: Phase | None
    progress: JobProgress
    queue_position: int | None
    eta_s: float | None
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime
    batch_id: str | None
    document_ids: list[str]
    params: dict[str, Any]
    metadata: dict[str, str]
    webhook_url: str | None
    usage: dict[str, Any] | None
    coverage: Receipt | None
    error: Error | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: JobRow, *, queue_position: int | None = None) -> ListedJob:
        """The public side of a row."""
        here = f"/v1/jobs/{row.id}"
        return ListedJob(
            id=row.id,
            kind=row.kind,
            status=Status(row.status),
            phase=Phase(row.phase) if row.phase else None,
            progress=JobProgress(
                pages_done=row.pages_done,
                pages_total=row.pages_total,
                tokens_done=row.tokens_done,
                tokens_total=row.tokens_total,
            ),
            queue_position=queue_position,
            eta_s=row.eta_s,
            attempt=row.attempt,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            expires_at=row.expires_at,
            batch_id=row.batch_id,
            document_ids=row.document_ids,
            params=row.params,
            metadata=row.meta,
            webhook_url=row.webhook_url,
            usage=row.usage,
            coverage=row.coverage,
            error=Error(**row.error) if row.error else None,
            links={
                "self": here,
                "result": f"{here}/result",
                "events": f"{here}/events",
                "cancel": f"{here}/cancel",
            },
        )


class Job(ListedJob):
    """One job."""

    result: dict[str, Any] | None

    @classmethod
    def of(cls, row: JobRow, *, queue_position: int | None = None) -> Job:
        """The public side of a row."""
        return cls(**vars(ListedJob.of(row, queue_position=queue_position)), result=row.result)


class Batch(BaseModel):
    """The same job for many documents."""

    id: str
    object: Literal["batch"] = "batch"
    kind: str
    status: Literal["in_progress", "finished"]
    jobs: dict[Status, int] = Field(description="How many jobs stand where.")
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, row: BatchRow, counts: dict[Status, int]) -> Batch:
        """The public side of a row and the count of its jobs."""
        running = any(counts.get(status) for status in UNFINISHED)
        return cls(
            id=row.id,
            kind=row.kind,
            status="in_progress" if running else "finished",
            jobs=counts,
            created_at=row.created_at,
            links={"self": f"/v1/batches/{row.id}", "jobs": f"/v1/jobs?batch_id={row.id}"},
        )


class Try(BaseModel):
    """One try to bring a webhook."""

    at: datetime
    status_code: int | None
    error: str | None
    seconds: float


class Delivery(BaseModel):
    """A webhook, and every try to bring it."""

    id: str
    object: Literal["delivery"] = "delivery"
    job_id: str
    url: str
    type: str
    status: DeliveryStatus
    tries: list[Try]
    created_at: datetime
    delivered_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, row: DeliveryRow) -> Delivery:
        """The public side of a row."""
        here = f"/v1/deliveries/{row.id}"
        return cls(
            id=row.id,
            job_id=row.job_id,
            url=row.url,
            type=row.payload["type"],
            status=DeliveryStatus(row.status),
            tries=[Try(**entry) for entry in row.log],
            created_at=row.created_at,
            delivered_at=row.delivered_at,
            links={"self": here, "replay": f"{here}/replay", "job": f"/v1/jobs/{row.job_id}"},
        )


class Worker(BaseModel):
    """A card that holds a model."""

    id: str
    object: Literal["worker"] = "worker"
    card: dict[str, Any]
    capacity: dict[str, Any]
    started_at: datetime
    seen_at: datetime

    @classmethod
    def of(cls, row: WorkerRow) -> Worker:
        """The public side of a row."""
        return cls(
            id=row.id, card=row.card, capacity=row.capacity, started_at=row.started_at, seen_at=row.seen_at
        )
