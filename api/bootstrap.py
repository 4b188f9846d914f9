"""The one place where the API's real collaborators are chosen."""

from __future__ import annotations

from celery import Celery

from api.services import Services, assemble
from doorbell import Doorbell
from jobs.record import open_record
from migrations import at_head
from parsers.document import PARSER_VERSION
from settings import Settings


def build(settings: Settings) -> Services:
    """The services that `settings` name."""
    queue = Celery(
        "unabridged", broker=settings.redis_url or None, config_source="celeryconfig", set_as_current=False
    )
    doorbell = Doorbell(queue)
    return assemble(
        settings,
        open_record(settings, ring=doorbell, parser_version=PARSER_VERSION),
        broker_answers=doorbell.answers,
        migrated=lambda: at_head(settings.database),
    )
