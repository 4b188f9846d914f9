"""The tables, as SQLAlchemy 2 typed classes. `migrations/` builds them; a test keeps the two equal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from jobs.status import DeliveryStatus, DocumentStatus, Status


class UtcDateTime(TypeDecorator[datetime]):
    """An instant. SQLite keeps no zone, so naive UTC is stored there and the zone is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PlainText(TypeDecorator[str]):
    """Text without what PostgreSQL refuses: a NUL becomes U+FFFD, a lone surrogate a question mark."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\ufffd").encode(errors="replace").decode()


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can name them too."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy
        str: PlainText(),
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


class Leased:
    """Columns of a thing that one worker at a time works on."""

    #: Fencing token: grows with every claim; a write that carries an older one is refused.
    attempt: Mapped[int] = mapped_column(default=0)
    #: Claims since a person last asked for it; limits how often a crash is tried again.
    tries: Mapped[int] = mapped_column(default=0)
    #: Until when the claim holds unless renewed.
    lease_until: Mapped[datetime | None]


class DocumentRow(Leased, Base):
    """An uploaded file. Same bytes, same row."""

    __tablename__ = "documents"

    id: Mapped[str] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    filename: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(default=DocumentStatus.QUEUED, index=True)
    #: Given at upload, forgotten once the text is out.
    password: Mapped[str | None]
    media_type: Mapped[str | None]
    title: Mapped[str | None]
    #: True: sheets of paper; False: sections or other places.
    paged: Mapped[bool | None]
    pages_done: Mapped[int] = mapped_column(default=0)
    pages_total: Mapped[int | None]
    pages_without_text: Mapped[list[Any] | None]
    characters: Mapped[int | None]
    parse_s: Mapped[float | None]
    warnings: Mapped[list[Any] | None]
    #: Version of the parsers whose text is stored.
    parser_version: Mapped[str | None]
    #: Version of the parsers that tried last; greater than the one above where it could not read the file.
    parser_tried: Mapped[str | None]
    #: ISO 639-1 code.
    language: Mapped[str | None]
    #: Numbers of the pages whose text was recognised in pictures.
    ocr_pages: Mapped[list[Any] | None]
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    parsed_at: Mapped[datetime | None]


class JobDocumentRow(Base):
    """Which documents a job reads, in order."""

    __tablename__ = "job_documents"
    __table_args__ = (Index("ix_job_documents_document_id_job_id", "document_id", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id"))


class BatchRow(Base):
    """The same job for many documents."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    created_at: Mapped[datetime]


class JobRow(Leased, Base):
    """One job, from the asking to the answer."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_status_id", "status", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(default=Status.QUEUED)
    phase: Mapped[str | None]
    #: Grows with every visible change; the id of an event in the job's stream.
    version: Mapped[int] = mapped_column(default=1)
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"), index=True)
    document_ids: Mapped[list[Any]]
    params: Mapped[dict[str, Any]]
    meta: Mapped[dict[str, Any]]
    webhook_url: Mapped[str | None]
    pages_done: Mapped[int] = mapped_column(default=0)
    pages_total: Mapped[int | None]
    tokens_done: Mapped[int] = mapped_column(default=0)
    tokens_total: Mapped[int | None]
    #: Seconds left, as the worker measures its own speed.
    eta_s: Mapped[float | None]
    #: The answer so far, while it is being written.
    draft: Mapped[str | None]
    worker_id: Mapped[str | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    #: Seconds from the asking, or the last retry, to `expires_at`.
    timeout_s: Mapped[float]
    expires_at: Mapped[datetime]
    result: Mapped[dict[str, Any] | None]
    coverage: Mapped[dict[str, Any] | None]
    usage: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]

    #: Written once, to find a document's jobs; who has the job reads `document_ids`.
    links: Mapped[list[JobDocumentRow]] = relationship(
        order_by=JobDocumentRow.position, lazy="raise", cascade="all, delete-orphan", passive_deletes=True
    )


class OutboxRow(Base):
    """A message to the queue that nobody has answered yet: written with the work, deleted by the claim."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    task: Mapped[str]
    queue: Mapped[str]
    subject_id: Mapped[str] = mapped_column(index=True)
    due_at: Mapped[datetime]
    rung_at: Mapped[datetime | None]


class IdempotencyRow(Base):
    """What a key's first request made."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    #: SHA-256 of method, path and body.
    fingerprint: Mapped[str]
    subject_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)


class DeliveryRow(Leased, Base):
    """A webhook on its way, and every try made."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    url: Mapped[str]
    payload: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(default=DeliveryStatus.QUEUED, index=True)
    #: `{at, status_code, error, seconds}` of each try, oldest first.
    log: Mapped[list[Any]]
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]


class WorkerRow(Base):
    """A model worker that has answered its first token, and when it was last seen."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    #: The model card and what fits, as the engine tells it.
    card: Mapped[dict[str, Any]]
    capacity: Mapped[dict[str, Any]]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
