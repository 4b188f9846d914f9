"""Answers that only the API gives (lists, results, pages of text, capacity), and the queries they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from jobs.objects import Delivery, Document, ListedJob, Receipt, Worker
from jobs.page import Page, Row
from jobs.status import Status
from parsers.document import Page as ParsedPage
from settings import Settings

Item = TypeVar("Item", bound=BaseModel)


class Listing(BaseModel, Generic[Item]):
    """Part of a list, newest first; `last_id` as `after` gives the next part."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, page: Page[Row], item: Callable[[Row], Item]) -> Self:
        """A page of rows, each made public by `item`."""
        ids = [row.id for row in page.rows]  # type: ignore[attr-defined]
        return cls(
            data=[item(row) for row in page.rows],
            first_id=ids[0] if ids else None,
            last_id=ids[-1] if ids else None,
            has_more=page.has_more,
        )


class DocumentList(Listing[Document]):
    """Documents, newest first."""


class JobList(Listing[SerializeAsAny[ListedJob]]):
    """Jobs, newest first. Places in the queue are told by the job alone.

    Where results are asked for, each is a whole `Job`.
    """


class DeliveryList(Listing[Delivery]):
    """Webhook deliveries of a job, oldest first."""


class PageText(BaseModel):
    """The text of one page, as it was read."""

    number: int = Field(description="Position in the file, from 1.")
    label: str | None = Field(
        description="The number printed on the page, where the file or the page says it."
    )
    name: str | None = Field(description="What the place is called, such as the path of a source file.")
    text: str


class TextList(BaseModel):
    """Pages of a document's text, in order. The cursors are page numbers."""

    object: Literal["list"] = "list"
    data: list[PageText]
    first_id: int | None
    last_id: int | None
    has_more: bool

    @classmethod
    def of(cls, pages: tuple[ParsedPage, ...], *, after: int, limit: int) -> TextList:
        """The `limit` pages that follow page `after`."""
        shown = pages[after : after + limit]
        return cls(
            data=[
                PageText(number=page.number, label=page.label, name=page.name, text=page.text)
                for page in shown
            ],
            first_id=shown[0].number if shown else None,
            last_id=shown[-1].number if shown else None,
            has_more=after + limit < len(pages),
        )


class Result(BaseModel):
    """What a completed job found, and what it was found in."""

    object: Literal["result"] = "result"
    job_id: str
    kind: str
    result: dict[str, Any]
    coverage: Receipt | None
    usage: dict[str, Any] | None


class Limits(BaseModel):
    """What this server refuses to exceed."""

    max_upload_bytes: int
    max_pages: int
    max_queued: int
    max_attempts: int
    parse_timeout_s: float
    job_timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits in force."""
        return cls(**{name: getattr(settings, name) for name in cls.model_fields})


class Capacity(BaseModel):
    """Which models are at work, and how much waits for them."""

    object: Literal["capacity"] = "capacity"
    workers: list[Worker]
    queued: int
    in_progress: int
    max_queued: int
    limits: Limits


class Health(BaseModel):
    """The server is well."""

    status: Literal["ok"] = "ok"


class Query(BaseModel):
    """Parameters of a request; unknown ones are refused, so that a slip of the pen is noticed."""

    model_config = ConfigDict(extra="forbid")


class ListQuery(Query):
    """Which part of a list."""

    limit: int = Field(default=20, ge=1, le=100, description="At most so many.")
    after: str | None = Field(default=None, max_length=64, description="Those that follow this id.")


class JobQuery(ListQuery):
    """Which jobs."""

    status: Status | None = Field(default=None, description="Only jobs that stand there.")
    batch_id: str | None = Field(default=None, max_length=64, description="Only jobs of this batch.")
    results: bool = Field(default=False, description="With their results, which may be megabytes each.")


class TextQuery(Query):
    """Which pages."""

    page: int | None = Field(default=None, ge=1, description="This page alone.")
    limit: int = Field(default=20, ge=1, le=100, description="At most so many.")
    after: int = Field(default=0, ge=0, description="Those that follow this page number.")
