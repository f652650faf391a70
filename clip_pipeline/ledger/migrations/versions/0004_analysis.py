"""Analysis requests, vectors of uploads, label sets

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "analysis_requests",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
            comment="the order of submission",
        ),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False, comment="api, cli, kafka or page"),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of the upload, which the store keeps by it"),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "labels", sa.Text(), nullable=True, comment="JSON list that came with the request; null: those of label_set"
        ),
        sa.Column("label_set", sa.String(length=64), nullable=True),
        sa.Column("label_set_version", sa.Integer(), nullable=True),
        sa.Column("top_k", sa.Integer(), nullable=True, comment="null: all labels"),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("submitted_at", sa.String(length=32), nullable=False),
        sa.Column("started_at", sa.String(length=32), nullable=True, comment="first claimed"),
        sa.Column("completed_at", sa.String(length=32), nullable=True, comment="completed or failed"),
        sa.Column("updated_at", sa.String(length=32), nullable=False, comment="of the last change of state"),
        sa.Column("lease_owner", sa.String(length=64), nullable=True, comment="the run that works on it"),
        sa.Column(
            "lease_until", sa.Float(), nullable=True, comment="seconds since 1970; one owner's leases all end together"
        ),
        sa.Column(
            "alone",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="its run has nothing else leased",
        ),
        sa.Column(
            "suspect",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="a run died while it worked on it",
        ),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="times claimed"),
        sa.Column(
            "solo_deaths",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="runs that died with it alone",
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True, comment="JSON"),
        sa.Column("processing_time_ms", sa.Float(), nullable=True),
        sa.Column("delivered_at", sa.String(length=32), nullable=True, comment="when Kafka had its result"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_analysis_requests")),
        sa.UniqueConstraint("request_id", name=op.f("uq_analysis_requests_request_id")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("analysis_requests", schema=None) as batch_op:
        batch_op.create_index(
            "ix_analysis_requests_finished",
            ["state", "processing_time_ms"],
            unique=False,
            sqlite_where=sa.text("state IN ('completed', 'failed')"),
            postgresql_where=sa.text("state IN ('completed', 'failed')"),
        )
        batch_op.create_index(
            "ix_analysis_requests_leased",
            ["lease_until"],
            unique=False,
            sqlite_where=sa.text("state = 'processing'"),
            postgresql_where=sa.text("state = 'processing'"),
        )
        batch_op.create_index(
            "ix_analysis_requests_owned",
            ["lease_owner", "seq"],
            unique=False,
            sqlite_where=sa.text("state = 'processing'"),
            postgresql_where=sa.text("state = 'processing'"),
        )
        batch_op.create_index("ix_analysis_requests_sha256", ["sha256"], unique=False)
        batch_op.create_index(
            "ix_analysis_requests_undelivered",
            ["seq"],
            unique=False,
            sqlite_where=sa.text("source = 'kafka' AND delivered_at IS NULL AND completed_at IS NOT NULL"),
            postgresql_where=sa.text("source = 'kafka' AND delivered_at IS NULL AND completed_at IS NOT NULL"),
        )
        batch_op.create_index("ix_analysis_requests_updated", ["updated_at", "seq"], unique=False)
        batch_op.create_index(
            "ix_analysis_requests_waiting",
            ["suspect", "seq"],
            unique=False,
            sqlite_where=sa.text("state = 'submitted'"),
            postgresql_where=sa.text("state = 'submitted'"),
        )

    op.create_table(
        "label_sets",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("labels", sa.Text(), nullable=False, comment="JSON list"),
        sa.Column("templates", sa.Text(), nullable=False, comment="JSON list, {} where the label goes"),
        sa.Column("digest", sa.String(length=64), nullable=False, comment="SHA-256 of labels and templates"),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("in_use", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_label_sets")),
    )
    with op.batch_alter_table("label_sets", schema=None) as batch_op:
        batch_op.create_index(
            "uq_label_sets_in_use",
            ["in_use"],
            unique=True,
            sqlite_where=sa.text("in_use"),
            postgresql_where=sa.text("in_use"),
        )

    op.create_table(
        "upload_vectors",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False, comment="of the encoder that made it"),
        sa.Column("vector", sa.LargeBinary(), nullable=False, comment="unit length, little-endian float16"),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("sha256", "fingerprint", name=op.f("pk_upload_vectors")),
    )


def downgrade() -> None:
    for table in ("upload_vectors", "label_sets", "analysis_requests"):
        op.drop_table(table)
