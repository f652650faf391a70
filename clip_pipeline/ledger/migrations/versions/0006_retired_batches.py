"""Batches that were compacted into others

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "retired_batches",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "compacted_into", sa.BigInteger(), nullable=False, comment="number of the batch that holds its images now"
        ),
        sa.Column("images", sa.Integer(), nullable=False, comment="vectors that went over"),
        sa.Column("retired_at", sa.String(length=32), nullable=False),
        sa.Column(
            "removed_at", sa.String(length=32), nullable=True, comment="when its manifest and embeddings were deleted"
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_retired_batches")),
    )


def downgrade() -> None:
    op.drop_table("retired_batches")
