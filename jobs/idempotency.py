"""Idempotency keys: a repeated POST finds what the first one made.

The header is that of draft-ietf-httpapi-idempotency-key-header-07.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.errors import IdempotencyKeyReused
from jobs.tables import IdempotencyRow


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key, and the SHA-256 of the request it came with."""

    value: str
    fingerprint: str


def once(database: Database, session: Session, key: Key | None, make: Callable[[], str]) -> tuple[str, bool]:
    """The id of what `make` makes, and whether an earlier request with this key had made it already.

    The key is stored in the transaction of the thing made, so that neither exists without the other.

    Raises:
        IdempotencyKeyReused: the key came with another request before.
    """
    if key is None:
        return make(), False
    database.alone(session, key.value)
    known = session.get(IdempotencyRow, key.value)
    if known is not None:
        if known.fingerprint != key.fingerprint:
            raise IdempotencyKeyReused
        return known.subject_id, True
    subject_id = make()
    session.add(
        IdempotencyRow(
            key=key.value, fingerprint=key.fingerprint, subject_id=subject_id, created_at=database.clock()
        )
    )
    return subject_id, False
