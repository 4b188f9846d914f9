"""Errors of the record.

RecordError
├── NotFound
│   ├── DocumentNotFound
│   ├── JobNotFound
│   ├── BatchNotFound
│   └── DeliveryNotFound
├── Conflict
│   ├── IllegalMove          the job's status does not allow what was asked
│   ├── DocumentInUse
│   └── ResultNotReady
├── DocumentFailed           a job names a document that could not be parsed
├── IdempotencyKeyReused
├── QueueFull
├── UploadTooLarge
├── UploadEmpty
├── StorageFull
└── LeaseLost                another worker owns the work now; never shown to users
"""

from __future__ import annotations

from typing import ClassVar


class RecordError(Exception):
    """The record refused the operation."""

    code: ClassVar[str] = "record_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class NotFound(RecordError):
    """There is no such object. Check the id."""

    code = "not_found"


class DocumentNotFound(NotFound):
    """There is no document with this id. Upload it first: POST /v1/documents."""

    code = "document_not_found"


class JobNotFound(NotFound):
    """There is no job with this id. List them: GET /v1/jobs."""

    code = "job_not_found"


class BatchNotFound(NotFound):
    """There is no batch with this id. Its jobs name it in `batch_id`: GET /v1/jobs."""

    code = "batch_not_found"


class DeliveryNotFound(NotFound):
    """There is no webhook delivery with this id. List those of a job: GET /v1/jobs/{id}/deliveries."""

    code = "delivery_not_found"


class Conflict(RecordError):
    """The object's present state does not allow this."""

    code = "conflict"


class IllegalMove(Conflict):
    """The job's status does not allow this. Look at its status first: GET /v1/jobs/{id}."""

    code = "illegal_move"


class DocumentInUse(Conflict):
    """An unfinished job needs this document. Cancel the job or wait for it, then delete the document."""

    code = "document_in_use"


class ResultNotReady(Conflict):
    """The job has no result yet. Wait for status `completed`."""

    code = "result_not_ready"


class DocumentFailed(RecordError):
    """The document could not be parsed. Its `error` says why; upload a better copy, or give its password."""

    code = "document_failed"


class IdempotencyKeyReused(RecordError):
    """This Idempotency-Key was used for another request. Use a new key for a new request."""

    code = "idempotency_key_reused"


class QueueFull(RecordError):
    """The queue is at its limit. Try again later."""

    code = "queue_full"


class UploadTooLarge(RecordError):
    """The file is larger than this server accepts. Split it and send the parts."""

    code = "upload_too_large"


class UploadEmpty(RecordError):
    """The file has no bytes in it. Check that it was saved, and upload it again."""

    code = "upload_empty"


class StorageFull(RecordError):
    """The server's disk is full; nothing was stored. Free space and upload again."""

    code = "storage_full"


class LeaseLost(RecordError):
    """Another worker has taken over this piece of work."""

    code = "lease_lost"
