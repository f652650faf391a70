"""Paths of any length on PostgreSQL; and workers no longer say how many slots they have, which the fleet file says

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# An entry of an index may have a third of a page, 2,704 bytes; a path may have 4,095, and more where it is escaped.
# A cast to bytea reads backslashes as escapes. The digest of a short path is empty: NULLs would all count as different.
INDEX = (
    "CREATE UNIQUE INDEX uq_files_path ON files (left(path, 500), "
    r"(CASE WHEN length(path) > 500 THEN sha256(replace(path, '\', '\\')::bytea) ELSE ''::bytea END))"
)


def upgrade() -> None:
    with op.batch_alter_table("workers") as workers:
        workers.drop_column("slots")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("uq_files_path", "files", type_="unique")
        op.execute(INDEX)
        # The planner knows what is in an index on expressions from this alone.
        op.execute("ANALYZE files")


def downgrade() -> None:
    with op.batch_alter_table("workers") as workers:
        workers.add_column(sa.Column("slots", sa.Integer(), server_default="1", nullable=False))
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("uq_files_path", "files")
        op.create_unique_constraint("uq_files_path", "files", ["path"])
