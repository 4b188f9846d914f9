"""Webhooks that wait for their next try are rung for in a queue apart from parsing."""

from __future__ import annotations

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("UPDATE outbox SET queue = 'quick' WHERE task = 'unabridged.deliver'")


def downgrade() -> None:
    op.execute("UPDATE outbox SET queue = 'cpu' WHERE task = 'unabridged.deliver'")
