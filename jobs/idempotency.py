"""Idempotency keys: a repeated POST finds what the first one made.

The header is that of draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.errors import IdempotencyKeyReused, NotFound
from jobs.tables import BatchRow, DeliveryRow, DocumentRow, IdempotencyRow, JobRow

Made = TypeVar("Made", BatchRow, DocumentRow, JobRow, DeliveryRow)


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key, and the SHA-256 of the request it came with."""

    value: str
    fingerprint: str


def once(
    database: Database, session: Session, key: Key | None, table: type[Made], make: Callable[[], Made]
) -> tuple[Made, bool]:
    """What `make` makes, and whether an earlier request with this key had made it already.

    The key is stored in the transaction of the thing made, so that neither exists without the other.

    Raises:
        IdempotencyKeyReused: the key came with another request before.
        NotFound: what the key made was deleted since.
    """
    if key is None:
        return make(), False
    database.alone(session, f"idempotency key {key.value}")
    known = session.get(IdempotencyRow, key.value)
    if known is None:
        made = make()
        session.add(
            IdempotencyRow(
                key=key.value, fingerprint=key.fingerprint, subject_id=made.id, created_at=database.clock()
            )
        )
        return made, False
    if known.fingerprint != key.fingerprint:
        raise IdempotencyKeyReused
    found = session.get(table, known.subject_id)
    if found is None:
        raise NotFound("What was made with this Idempotency-Key was deleted. Use a new key to make it again.")
    return found, True
