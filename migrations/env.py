"""Run by Alembic for every command: on the connection it was given, else on the database of the settings."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, TypeDecorator

from jobs.tables import Base
from migrations import connect
from settings import Settings


def render(kind: str, item: object, _context: Any) -> str | Literal[False]:
    """Write new revisions in SQLAlchemy's own types: they must run the same when those of `jobs` change."""
    return f"sa.{item.impl!r}" if kind == "type" and isinstance(item, TypeDecorator) else False


def migrate(connection: Connection) -> None:
    """Run the command within the connection's transaction."""
    context.configure(
        connection=connection, target_metadata=Base.metadata, render_as_batch=True, render_item=render
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with connect(Settings().database) as opened:
        migrate(opened)
