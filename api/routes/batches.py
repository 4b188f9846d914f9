"""Batches: the same job for many documents."""

from __future__ import annotations

from typing import cast

from apiflask import APIBlueprint
from flask import request

from api.examples import BATCH, NEW_BATCH
from api.openapi import operation
from api.problems import InvalidRequest, InvalidSchema, ToolRefused, WebhookRefused
from api.request import Request
from api.services import services
from jobs.errors import BatchNotFound, DocumentFailed, DocumentNotFound, IdempotencyKeyReused, QueueFull
from jobs.objects import Batch
from jobs.params import NewBatch
from worker.engine.errors import UnsupportedSchema
from worker.errors import InstructionTooLong

blueprint = APIBlueprint("batches", __name__, url_prefix="/v1/batches", tag="Batches")


@blueprint.post("")
@operation(
    DocumentFailed,
    DocumentNotFound,
    IdempotencyKeyReused,
    InstructionTooLong,
    InvalidRequest,
    InvalidSchema,
    QueueFull,
    ToolRefused,
    UnsupportedSchema,
    WebhookRefused,
)
@blueprint.input(NewBatch, arg_name="new", example=NEW_BATCH)
@blueprint.output(Batch, 202, description="Queued.", example=BATCH)
def create_batch(new: NewBatch) -> tuple[Batch, int, dict[str, str]]:
    """Ask the same about each of many documents; all are queued or none."""
    record = services().record
    key = cast(Request, request).key()
    services().admission.check(new, new.document_ids)
    row, replayed = record.ledger.add_batch(new, new.document_ids, key=key)
    batch = Batch.of(*record.ledger.batch(row.id))
    replay = {"Idempotency-Replayed": "true"} if replayed else {}
    return batch, 202, {"Location": batch.links["self"], **replay}


@blueprint.get("/<batch_id>")
@operation(BatchNotFound)
@blueprint.output(Batch, example=BATCH)
def get_batch(batch_id: str) -> Batch:
    """Look at a batch: how many of its jobs stand where."""
    return Batch.of(*services().record.ledger.batch(batch_id))
