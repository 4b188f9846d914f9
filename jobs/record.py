"""The record: database, files and what is kept in them, built in one place for API and workers alike."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from jobs.database import Clock, Database, Ring, open_engine, utc_now
from jobs.deliveries import Deliveries
from jobs.documents import Documents
from jobs.files import FileStore
from jobs.ledger import Ledger
from jobs.workers import Workers
from settings import Settings


@dataclass(frozen=True, slots=True)
class Record:
    """The collaborators that know what was uploaded and asked."""

    database: Database
    documents: Documents
    ledger: Ledger
    deliveries: Deliveries
    workers: Workers
    files: FileStore

    def close(self) -> None:
        """Return every connection."""
        self.database.close()


def open_record(
    settings: Settings,
    *,
    ring: Ring,
    clock: Clock = utc_now,
    parser_version: str | None = None,
    engine: Engine | None = None,
) -> Record:
    """The record that `settings` name. `ring` is the queue's doorbell.

    Text of other parsers than `parser_version` is made anew when it is asked for. `engine`: the database, if
    it is open already.
    """
    database = Database(engine or open_engine(settings.database), ring=ring, clock=clock)
    files = FileStore(settings.data, max_upload_bytes=settings.max_upload_bytes)
    documents = Documents(database, files, lease_s=settings.lease_s, parser_version=parser_version)
    # A delivery has no heart: its lease outlasts the longest try.
    deliveries = Deliveries(database, lease_s=settings.lease_s + settings.webhook_timeout_s)
    return Record(
        database=database,
        documents=documents,
        ledger=Ledger(
            database,
            documents,
            deliveries,
            lease_s=settings.lease_s,
            max_queued=settings.max_queued,
            job_timeout_s=settings.job_timeout_s,
            jobs_per_card=settings.jobs_per_card,
        ),
        deliveries=deliveries,
        workers=Workers(database),
        files=files,
    )
