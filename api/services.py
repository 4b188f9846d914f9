"""The collaborators that routes call, found in the application they belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import current_app

from api.admission import Admission
from api.watch import Watch
from jobs.record import Record
from settings import Settings
from worker.prompts import Prompts
from worker.webhooks import network_policy


@dataclass(frozen=True, slots=True)
class Services:
    """Everything an application needs; built by `assemble`."""

    settings: Settings
    record: Record
    admission: Admission
    watch: Watch
    #: Does the queue answer?
    broker_answers: Callable[[], bool]
    #: Does the database have the tables this version needs?
    migrated: Callable[[], bool]


def assemble(
    settings: Settings,
    record: Record,
    *,
    broker_answers: Callable[[], bool],
    migrated: Callable[[], bool],
) -> Services:
    """The services around a record and two probes."""
    return Services(
        settings=settings,
        record=record,
        admission=Admission(
            record, network_policy(settings.webhook_allow), own_kinds=Prompts(settings.prompts).own_kinds
        ),
        watch=Watch(record.ledger.version, seats=max(1, settings.api_threads * 3 // 4)),
        broker_answers=broker_answers,
        migrated=migrated,
    )


def services() -> Services:
    """The services of the application that handles the present request."""
    return cast(Services, current_app.extensions["unabridged"])
