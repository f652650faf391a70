"""The tables of the ledger. `migrations/` builds them; a test proves that both say the same."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives row ids only to a column typed INTEGER; PostgreSQL needs 64 bits spelled out.
Identifier = BigInteger().with_variant(Integer(), "sqlite")

# Byte order, so that a sorted folder scan and `ORDER BY path` agree on every database.
PathText = Text().with_variant(Text(collation="C"), "postgresql")

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(40), primary_key=True),
    Column("source", String(16), nullable=False, comment="api, cli or watch"),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("created_at", String(32), nullable=False, comment="UTC, ISO 8601, Z"),
    Column("images_count", Integer, nullable=False, comment="distinct paths submitted"),
    Column("new_images_count", Integer, nullable=False, comment="of these, queued by this job"),
    Column("already_indexed_count", Integer, nullable=False, comment="of these, known and unchanged"),
    Column("total_images", Integer, nullable=False, comment="paths this job waits for: its own and those under way"),
    Column("idempotency_key", Text, unique=True),
    Column("request_digest", String(64)),
    Column("started_at", String(32)),
    Column("completed_at", String(32)),
    Column("canceled_at", String(32)),
    Column("failed_images", Integer, comment="frozen when the job completes"),
    Index("ix_jobs_created_at", "created_at"),
    Index("ix_jobs_open", "job_id", sqlite_where=text("completed_at IS NULL AND canceled_at IS NULL"),
          postgresql_where=text("completed_at IS NULL AND canceled_at IS NULL")),
)  # fmt: skip

images = Table(
    "images",
    metadata,
    Column("image_id", Identifier, primary_key=True, autoincrement=True),
    Column("sha256", String(64), nullable=False, unique=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("format", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("orientation", SmallInteger, nullable=False),
    Column("batch", BigInteger, nullable=False, comment="number of the batch that holds its current vector"),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("in_release", Boolean, nullable=False, server_default=false(), comment="live in the recorded release"),
    Column("indexed_at", String(32)),
    Index("ix_images_batch", "batch"),
    Index("ix_images_state", "state", "in_release"),
    sqlite_autoincrement=True,
)

files = Table(
    "files",
    metadata,
    Column("file_id", Identifier, primary_key=True, autoincrement=True),
    # On PostgreSQL this index is on expressions that a path of any length fits in; see path_index.
    Column("path", PathText, nullable=False, unique=True, comment="text form, see core.paths"),
    Column("size_bytes", BigInteger, nullable=False, comment="-1: not there when registered"),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("job_id", String(40), ForeignKey("jobs.job_id"), nullable=False, comment="the last to register it"),
    Column("batch", BigInteger, comment="number of the batch that inspects it"),
    Column("image_id", BigInteger, ForeignKey("images.image_id")),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("updated_at", String(32), nullable=False),
    Index("ix_files_batch", "batch"),
    Index("ix_files_image_id", "image_id"),
    Index("ix_files_state", "state"),
    Index("ix_files_job", "job_id", "state", "batch"),
    Index("ix_files_unplanned", "job_id", "file_id",
          sqlite_where=text("state = 'registered' AND batch IS NULL"),
          postgresql_where=text("state = 'registered' AND batch IS NULL")),
    sqlite_autoincrement=True,
)  # fmt: skip

job_files = Table(
    "job_files",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.job_id"), primary_key=True),
    Column("file_id", BigInteger, ForeignKey("files.file_id"), primary_key=True),
    Index("ix_job_files_file_id", "file_id"),
    sqlite_with_rowid=False,
)

batches = Table(
    "batches",
    metadata,
    Column("number", Identifier, primary_key=True, autoincrement=True),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("created_at", String(32), nullable=False),
    Column("files", Integer, nullable=False, comment="registered files planned into it"),
    Column("images", Integer, comment="rows of its manifest; null until sealed"),
    Column("manifest_digest", String(64)),
    Column("manifest_run_id", String(64), comment="the run that sealed it"),
    Column("processed", Integer, nullable=False, server_default=text("0"), comment="images embedded or failed so far"),
    Column("embedded_manifest", String(64), comment="digest of the manifest that was embedded last"),
    Column("embeddings_digest", String(64), comment="digest of the sealed embeddings"),
    Column("merged_digest", String(64), comment="embeddings_digest that the recorded release holds"),
    Column("run_id", String(64), comment="the Dagster run that worked on it last"),
    Column("error", Text, comment="why its work was given up; null while there is hope"),
    Column("updated_at", String(32), nullable=False),
    sqlite_autoincrement=True,
)

releases = Table(
    "releases",
    metadata,
    Column("encoder_key", String(96), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("images", Integer, nullable=False),
    Column("recorded_at", String(32), nullable=False),
    Column("run_id", String(64), nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(32), primary_key=True, comment="the part of the key that is no secret"),
    Column("name", Text, nullable=False),
    Column("scope", String(16), nullable=False, comment="read, write or admin"),
    Column("salt", String(64), nullable=False, comment="hexadecimal"),
    Column("digest", String(64), nullable=False, comment="of salt and secret, hexadecimal"),
    Column("created_at", String(32), nullable=False),
    Column("expires_at", String(32)),
    Column("revoked_at", String(32)),
    Column("last_used_at", String(32), comment="to the minute"),
)

# Conditions of partial indexes, as text: the planner must find the same words in the query to use the index.
IS_SUBMITTED = text("state = 'submitted'")
IS_PROCESSING = text("state = 'processing'")
IS_FINISHED = text("state IN ('completed', 'failed')")
AWAITS_DELIVERY = text("source = 'kafka' AND delivered_at IS NULL AND completed_at IS NOT NULL")

analysis_requests = Table(
    "analysis_requests",
    metadata,
    Column("seq", Identifier, primary_key=True, autoincrement=True, comment="the order of submission"),
    Column("request_id", String(128), nullable=False, unique=True),
    Column("source", String(16), nullable=False, comment="api, cli, kafka or page"),
    Column("sha256", String(64), nullable=False, comment="of the upload, which the store keeps by it"),
    Column("filename", Text, nullable=False),
    Column("format", String(16), nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("labels", Text, comment="JSON list that came with the request; null: those of label_set"),
    Column("label_set", String(64)),
    Column("label_set_version", Integer),
    Column("top_k", Integer, comment="null: all labels"),
    Column("state", String(16), nullable=False),
    Column("submitted_at", String(32), nullable=False),
    Column("started_at", String(32), comment="first claimed"),
    Column("completed_at", String(32), comment="completed or failed"),
    Column("updated_at", String(32), nullable=False, comment="of the last change of state"),
    Column("lease_owner", String(64), comment="the run that works on it"),
    Column("lease_until", Float(), comment="seconds since 1970; one owner's leases all end together"),
    Column("alone", Boolean, nullable=False, server_default=false(), comment="its run has nothing else leased"),
    Column("suspect", Boolean, nullable=False, server_default=false(), comment="a run died while it worked on it"),
    Column("attempts", Integer, nullable=False, server_default=text("0"), comment="times claimed"),
    Column("solo_deaths", Integer, nullable=False, server_default=text("0"), comment="runs that died with it alone"),
    Column("reason", Text),
    Column("result", Text, comment="JSON"),
    Column("processing_time_ms", Float()),
    Column("delivered_at", String(32), comment="when Kafka had its result"),
    Index("ix_analysis_requests_waiting", "suspect", "seq", sqlite_where=IS_SUBMITTED, postgresql_where=IS_SUBMITTED),
    Index("ix_analysis_requests_leased", "lease_until", sqlite_where=IS_PROCESSING, postgresql_where=IS_PROCESSING),
    Index("ix_analysis_requests_owned", "lease_owner", "seq", sqlite_where=IS_PROCESSING,
          postgresql_where=IS_PROCESSING),
    Index("ix_analysis_requests_undelivered", "seq", sqlite_where=AWAITS_DELIVERY, postgresql_where=AWAITS_DELIVERY),
    Index("ix_analysis_requests_updated", "updated_at", "seq"),
    Index("ix_analysis_requests_sha256", "sha256"),
    # Partial too: SQLite would prefer an index on all states to those above, and sort a whole backlog.
    Index("ix_analysis_requests_finished", "state", "processing_time_ms",
          sqlite_where=IS_FINISHED, postgresql_where=IS_FINISHED),
    sqlite_autoincrement=True,
)  # fmt: skip

upload_vectors = Table(
    "upload_vectors",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("fingerprint", String(64), primary_key=True, comment="of the encoder that made it"),
    Column("vector", LargeBinary, nullable=False, comment="unit length, little-endian float16"),
    Column("created_at", String(32), nullable=False),
)

label_sets = Table(
    "label_sets",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("labels", Text, nullable=False, comment="JSON list"),
    Column("templates", Text, nullable=False, comment="JSON list, {} where the label goes"),
    Column("digest", String(64), nullable=False, comment="SHA-256 of labels and templates"),
    Column("created_at", String(32), nullable=False),
    Column("in_use", Boolean, nullable=False, server_default=false()),
    Index("uq_label_sets_in_use", "in_use", unique=True, sqlite_where=text("in_use"), postgresql_where=text("in_use")),
)

deployment = Table(
    "deployment",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", Text, nullable=False),
    Column("recorded_at", String(32), nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("address", String(300), primary_key=True, comment="host:port, as the fleet file has it"),
    Column("host", String(255), nullable=False),
    Column("port", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("gpu", Text, nullable=False, comment="the device and what it is called"),
    Column("machine", Text, nullable=False, comment="name of the host as it calls itself"),
    Column("pid", Integer, nullable=False),
    Column("session", String(32), nullable=False, comment="the life that its beats belong to"),
    Column("encoder", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("version", String(64), nullable=False),
    Column("dagster_version", String(64), nullable=False),
    Column("state", String(16), nullable=False, comment="what it said last of itself"),
    Column("detail", Text, nullable=False),
    Column("run_ids", Text, nullable=False, comment="JSON list of the Dagster runs it works on"),
    Column("images_per_s", Float(), nullable=False),
    Column("started_at", String(32), nullable=False, comment="by the database's clock"),
    Column("seen_at", String(32), nullable=False, comment="its last beat, by the database's clock"),
)

retired_batches = Table(
    "retired_batches",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("compacted_into", BigInteger, nullable=False, comment="number of the batch that holds its images now"),
    Column("images", Integer, nullable=False, comment="vectors that went over"),
    Column("retired_at", String(32), nullable=False),
    Column("removed_at", String(32), comment="when its manifest and embeddings were deleted"),
)
