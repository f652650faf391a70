"""First schema: jobs, files, images, batches, releases

Revision ID: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False, comment="registered files planned into it"),
        sa.Column("images", sa.Integer(), nullable=True, comment="rows of its manifest; null until sealed"),
        sa.Column("manifest_digest", sa.String(length=64), nullable=True),
        sa.Column("manifest_run_id", sa.String(length=64), nullable=True, comment="the run that sealed it"),
        sa.Column(
            "processed",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="images embedded or failed so far",
        ),
        sa.Column(
            "embedded_manifest",
            sa.String(length=64),
            nullable=True,
            comment="digest of the manifest that was embedded last",
        ),
        sa.Column("embeddings_digest", sa.String(length=64), nullable=True, comment="digest of the sealed embeddings"),
        sa.Column(
            "merged_digest",
            sa.String(length=64),
            nullable=True,
            comment="embeddings_digest that the recorded release holds",
        ),
        sa.Column("run_id", sa.String(length=64), nullable=True, comment="the Dagster run that worked on it last"),
        sa.Column("error", sa.Text(), nullable=True, comment="why its work was given up; null while there is hope"),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_batches")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "images",
        sa.Column("image_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("orientation", sa.SmallInteger(), nullable=False),
        sa.Column(
            "batch", sa.BigInteger(), nullable=False, comment="number of the batch that holds its current vector"
        ),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "in_release",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="live in the recorded release",
        ),
        sa.Column("indexed_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("image_id", name=op.f("pk_images")),
        sa.UniqueConstraint("sha256", name=op.f("uq_images_sha256")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("images", schema=None) as batch_op:
        batch_op.create_index("ix_images_batch", ["batch"], unique=False)
        batch_op.create_index("ix_images_state", ["state", "in_release"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False, comment="api, cli or watch"),
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False, comment="UTC, ISO 8601, Z"),
        sa.Column("images_count", sa.Integer(), nullable=False, comment="distinct paths submitted"),
        sa.Column("new_images_count", sa.Integer(), nullable=False, comment="of these, queued by this job"),
        sa.Column("already_indexed_count", sa.Integer(), nullable=False, comment="of these, known and unchanged"),
        sa.Column(
            "total_images",
            sa.Integer(),
            nullable=False,
            comment="paths this job waits for: its own and those under way",
        ),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_digest", sa.String(length=64), nullable=True),
        sa.Column("started_at", sa.String(length=32), nullable=True),
        sa.Column("completed_at", sa.String(length=32), nullable=True),
        sa.Column("canceled_at", sa.String(length=32), nullable=True),
        sa.Column("failed_images", sa.Integer(), nullable=True, comment="frozen when the job completes"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_jobs_idempotency_key")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index("ix_jobs_created_at", ["created_at"], unique=False)
        batch_op.create_index(
            "ix_jobs_open",
            ["job_id"],
            unique=False,
            sqlite_where=sa.text("completed_at IS NULL AND canceled_at IS NULL"),
            postgresql_where=sa.text("completed_at IS NULL AND canceled_at IS NULL"),
        )

    op.create_table(
        "releases",
        sa.Column("encoder_key", sa.String(length=96), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("recorded_at", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("encoder_key", "number", name=op.f("pk_releases")),
    )
    op.create_table(
        "files",
        sa.Column("file_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column(
            "path",
            sa.Text().with_variant(sa.Text(collation="C"), "postgresql"),
            nullable=False,
            comment="text form, see core.paths",
        ),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, comment="-1: not there when registered"),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False, comment="the last to register it"),
        sa.Column("batch", sa.BigInteger(), nullable=True, comment="number of the batch that inspects it"),
        sa.Column("image_id", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["images.image_id"], name=op.f("fk_files_image_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_files_job_id")),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_files")),
        sa.UniqueConstraint("path", name=op.f("uq_files_path")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.create_index("ix_files_batch", ["batch"], unique=False)
        batch_op.create_index("ix_files_image_id", ["image_id"], unique=False)
        batch_op.create_index("ix_files_state", ["state"], unique=False)
        batch_op.create_index(
            "ix_files_unplanned",
            ["job_id", "file_id"],
            unique=False,
            sqlite_where=sa.text("state = 'registered' AND batch IS NULL"),
            postgresql_where=sa.text("state = 'registered' AND batch IS NULL"),
        )

    op.create_table(
        "job_files",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("file_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.file_id"], name=op.f("fk_job_files_file_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_job_files_job_id")),
        sa.PrimaryKeyConstraint("job_id", "file_id", name=op.f("pk_job_files")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("job_files", schema=None) as batch_op:
        batch_op.create_index("ix_job_files_file_id", ["file_id"], unique=False)


def downgrade() -> None:
    for table in ("job_files", "files", "releases", "jobs", "images", "batches"):
        op.drop_table(table)
