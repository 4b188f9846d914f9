"""Kinds, statuses and the moves between them."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a job does with its documents."""

    SUMMARIZE = "summarize"
    EXTRACT = "extract"
    COMPARE = "compare"
    ASK = "ask"
    CHAT = "chat"


class Status(StrEnum):
    """Where a job stands. The last four are final until somebody retries the job."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Phase(StrEnum):
    """What is being done to a job that is not finished."""

    PARSING = "parsing"
    READING = "reading"
    WRITING = "writing"
    CHECKING = "checking"


class DocumentStatus(StrEnum):
    """Where a document stands."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    READY = "ready"
    FAILED = "failed"


class DeliveryStatus(StrEnum):
    """Where a webhook delivery stands. `queued` includes waiting for the next try."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    DELIVERED = "delivered"
    FAILED = "failed"


UNDELIVERED = frozenset({DeliveryStatus.QUEUED, DeliveryStatus.IN_PROGRESS})
FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})
#: Ended without an answer.
UNSUCCESSFUL = FINAL - {Status.COMPLETED}
UNFINISHED = frozenset(Status) - FINAL

#: Every legal move of a job: from -> to.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.IN_PROGRESS, Status.CANCELLED, Status.FAILED, Status.EXPIRED}),
    Status.IN_PROGRESS: frozenset(
        {Status.QUEUED, Status.CANCELLING, Status.COMPLETED, Status.FAILED, Status.EXPIRED}
    ),
    Status.CANCELLING: frozenset({Status.CANCELLED, Status.COMPLETED, Status.FAILED, Status.EXPIRED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
    Status.EXPIRED: frozenset({Status.QUEUED}),
}
