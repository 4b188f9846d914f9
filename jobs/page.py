"""One page of a list, newest first; the id of its last row is the cursor to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows, and whether older ones follow."""

    rows: Sequence[Row]
    has_more: bool


def page_of(
    session: Session, query: Select[Any], key: InstrumentedAttribute[str], *, limit: int, after: str | None
) -> Page[Any]:
    """The `limit` rows that come after the id `after` (ids sort by time)."""
    if after is not None:
        query = query.where(key < after)
    rows = session.scalars(query.order_by(key.desc()).limit(limit + 1)).all()
    return Page(rows[:limit], len(rows) > limit)
