"""Opening the ledger: one engine for each process, migrated, and the two kinds of transaction."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, CursorResult, Engine, create_engine, event, make_url
from sqlalchemy import text as sql_text
from sqlalchemy.exc import OperationalError

from clip_pipeline.core.errors import StoreError

BUSY_TIMEOUT_S = 60
_WRITE = "clip_write"
_WRITER_LOCK = 0x636C6970  # the ASCII of "clip"; one writer at a time, as SQLite has it by nature


@dataclass(frozen=True, slots=True)
class Ledger:
    """Read and write transactions on one database. Safe to share between threads."""

    engine: Engine

    @contextmanager
    def read(self) -> Generator[Connection, None, None]:
        """A transaction that sees one state of the ledger and changes nothing."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection, None, None]:
        """A transaction that commits as a whole or not at all; writers queue, readers go on.

        Taking the write lock at its start (BEGIN IMMEDIATE, an advisory lock on PostgreSQL) is what keeps two
        submissions of the same path from both finding it new.
        """
        with self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(sql_text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
                yield connection

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def open_ledger(url: str) -> Ledger:
    """The ledger at `url`, created or migrated to the newest schema first.

    Raises:
        StoreError: the database cannot be opened.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = _sqlite_engine(url) if parsed.get_backend_name() == "sqlite" else create_engine(url, pool_pre_ping=True)
    try:
        _migrate(engine)
    except OperationalError as error:
        raise StoreError(
            f"cannot open the ledger {parsed.render_as_string()}: {error.orig}; check CLIP_PIPELINE_LEDGER_URL, that "
            "the folder is writable and the disk not full"
        ) from error
    return Ledger(engine)


def inserted_id(created: CursorResult[Any]) -> int:
    """The primary key that the database gave to the one row just inserted."""
    key: Any = created.inserted_primary_key
    return int(key[0])


def utc_now() -> str:
    """The time as every table stores it: UTC, ISO 8601 with milliseconds, ending in Z."""
    return iso_utc(datetime.now(UTC))


def iso_utc(moment: datetime) -> str:
    """An aware moment as every table stores it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The driver's own implicit BEGIN is deferred; ours, below, is explicit.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA cache_size=-65536")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _migrate(engine: Engine) -> None:
    """Bring the schema to head. Processes that start together queue on the write lock; all but one find it done."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() == head:
            return
    with Ledger(engine).write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
