"""The server itself: what it can take, whether it lives, whether it is ready."""

from __future__ import annotations

from apiflask import APIBlueprint
from sqlalchemy.exc import SQLAlchemyError

from api.answers import Capacity, Health, Limits
from api.openapi import operation
from api.problems import Fault, NotReady
from api.services import Services, services
from jobs.objects import Worker
from jobs.status import Status

blueprint = APIBlueprint("server", __name__, tag="Server")


@blueprint.get("/v1/capacity")
@operation()
@blueprint.output(Capacity)
def get_capacity() -> Capacity:
    """Which models are at work, what fits into them, and how much waits."""
    record, settings = services().record, services().settings
    counts = record.ledger.counts()
    return Capacity(
        workers=[Worker.of(row) for row in record.workers.ready()],
        queued=counts.get(Status.QUEUED, 0),
        in_progress=counts.get(Status.IN_PROGRESS, 0) + counts.get(Status.CANCELLING, 0),
        max_queued=settings.max_queued,
        limits=Limits.of(settings),
    )


@blueprint.get("/livez")
@operation()
@blueprint.output(Health)
def get_liveness() -> Health:
    """Whether the process answers."""
    return Health()


@blueprint.get("/readyz")
@operation(NotReady)
@blueprint.output(Health)
def get_readiness() -> Health:
    """Whether jobs would be done: the database, its tables, the queue and at least one model are there."""
    missing = _missing(services())
    if missing:
        names = ", ".join(fault.at for fault in missing)
        raise NotReady(f"Not ready: {names}. `errors` says what each lacks.", errors=missing)
    return Health()


def _missing(here: Services) -> list[Fault]:
    missing: dict[str, str] = {}
    try:
        if not here.migrated():
            missing["migrations"] = "the database is not at this version; run the migrations"
        elif not here.record.workers.ready():
            missing["worker"] = "no worker with a loaded model has been seen lately"
    except SQLAlchemyError:
        missing["database"] = "the database does not answer"
    if not here.broker_answers():
        missing["broker"] = "the queue's broker does not answer"
    return [Fault(at=part, message=message) for part, message in missing.items()]
