"""Workers, and what the controller of the deployment is

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deployment",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_deployment")),
    )
    op.create_table(
        "workers",
        sa.Column("address", sa.String(length=300), nullable=False, comment="host:port, as the fleet file has it"),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("gpu", sa.Text(), nullable=False, comment="the device and what it is called"),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False, comment="name of the host as it calls itself"),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("session", sa.String(length=32), nullable=False, comment="the life that its beats belong to"),
        sa.Column("encoder", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("dagster_version", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False, comment="what it said last of itself"),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("run_ids", sa.Text(), nullable=False, comment="JSON list of the Dagster runs it works on"),
        sa.Column("images_per_s", sa.Float(), nullable=False),
        sa.Column("started_at", sa.String(length=32), nullable=False, comment="by the database's clock"),
        sa.Column("seen_at", sa.String(length=32), nullable=False, comment="its last beat, by the database's clock"),
        sa.PrimaryKeyConstraint("address", name=op.f("pk_workers")),
    )


def downgrade() -> None:
    for table in ("workers", "deployment"):
        op.drop_table(table)
