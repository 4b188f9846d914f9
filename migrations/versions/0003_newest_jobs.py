"""The newest jobs on a document are found without sorting all of them."""

from __future__ import annotations

from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_index("ix_job_documents_document_id_job_id", "job_documents", ["document_id", "job_id"])
    op.drop_index("ix_job_documents_document_id", "job_documents")


def downgrade() -> None:
    op.create_index("ix_job_documents_document_id", "job_documents", ["document_id"])
    op.drop_index("ix_job_documents_document_id_job_id", "job_documents")
