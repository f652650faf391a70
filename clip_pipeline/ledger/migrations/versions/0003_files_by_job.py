"""An index that counts the files of a job

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_files_job", "files", ["job_id", "state", "batch"])


def downgrade() -> None:
    op.drop_index("ix_files_job", table_name="files")
