"""What newer parsers tell of a document."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("documents", sa.Column("parser_tried", sa.Text(), nullable=True))
    op.add_column("documents", sa.Column("language", sa.Text(), nullable=True))
    op.add_column("documents", sa.Column("ocr_pages", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("documents", "ocr_pages")
    op.drop_column("documents", "language")
    op.drop_column("documents", "parser_tried")
