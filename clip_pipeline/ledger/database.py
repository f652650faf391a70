"""Opening the ledger: one engine for each process, migrated, and the two kinds of transaction."""

import sqlite3
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
from sqlalchemy import Connection, CursorResult, Engine, Insert, Table, create_engine, event, make_url
from sqlalchemy import text as sql_text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from clip_pipeline.core.errors import LedgerBusyError, NoSpaceError, StoreError
from clip_pipeline.ledger.planner_statistics import write_planner_statistics

BUSY_TIMEOUT_S = 60
CACHE_KIB = 64 * 1024
LARGE_CACHE_KIB = 256 * 1024
"""For a process that registers 100,000 paths: what they change, spread over a million files, is 140 MB of pages.
Measured: 0.8 s where they fit into the cache of SQLite, 2.3 s where they do not."""
_WRITE = "clip_write"
_WRITER_LOCK = 0x636C6970  # the ASCII of "clip"; one writer at a time, as SQLite has it by nature


@dataclass(frozen=True, slots=True)
class Ledger:
    """Read and write transactions on one database. Safe to share between threads."""

    engine: Engine

    @contextmanager
    def read(self) -> Generator[Connection, None, None]:
        """A transaction that sees one state of the ledger and changes nothing.

        Raises:
            LedgerBusyError, StoreError: as for `write`.
        """
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection, None, None]:
        """A transaction that commits as a whole or not at all; writers queue, readers go on.

        Taking the write lock at its start (BEGIN IMMEDIATE, an advisory lock on PostgreSQL) is what keeps two
        submissions of the same path from both finding it new.

        Raises:
            LedgerBusyError: SQLite's lock was held by others for `BUSY_TIMEOUT_S`; nothing is written.
            StoreError: the database cannot be reached, or not be written.
        """
        with self.write_rows() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sql_text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK})
            yield connection

    @contextmanager
    def write_rows(self) -> Generator[Connection, None, None]:
        """A write transaction that protects its rows by itself: with locks on them, or unique keys.

        On PostgreSQL it does not queue behind `write`, so a large registration holds no small change up. SQLite has
        one writer at a time, whatever it writes.
        """
        with _translated(), self.engine.connect() as plain:
            connection = plain.execution_options(**{_WRITE: True})
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def open_ledger(url: str, *, cache_kib: int = CACHE_KIB) -> Ledger:
    """The ledger at `url`, created or migrated to the newest schema first. cache_kib: the most that SQLite caches.

    Raises:
        StoreError: the database cannot be opened.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    engine = _sqlite_engine(url, cache_kib) if is_sqlite else create_engine(url, pool_pre_ping=True)
    try:
        with _translated():
            _migrate(engine)
    except StoreError as error:
        raise type(error)(f"cannot open the ledger {parsed.render_as_string()}: {error}") from error
    return Ledger(engine)


def inserted_id(created: CursorResult[Any]) -> int:
    """The primary key that the database gave to the one row just inserted."""
    key: Any = created.inserted_primary_key
    return int(key[0])


def insert_if_new(connection: Connection, table: Table) -> Insert:
    """An INSERT that leaves out every row whose key is taken; the count of the result is that of rows inserted."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def utc_now() -> str:
    """The time as every table stores it: UTC, ISO 8601 with milliseconds, ending in Z."""
    return iso_utc(datetime.now(UTC))


def iso_utc(moment: datetime) -> str:
    """An aware moment as every table stores it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@contextmanager
def _translated() -> Generator[None, None, None]:
    """What the driver says of a lock, a disk or a connection, as an error of this project."""
    try:
        yield
    except OperationalError as error:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # its low byte: the rest says which kind of busy
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerBusyError(
                f"the ledger is in use by another writer ({error.orig}), nothing was written; try again. If it stays "
                "so, look for a process that holds its file open"
            ) from error
        # SQLite: "database or disk is full"; PostgreSQL, code 53100: "No space left on device".
        text = str(error.orig).lower()
        if "disk is full" in text or "no space left" in text:
            raise NoSpaceError("the disk of the ledger is full, so nothing was recorded; free some space") from error
        raise StoreError(
            f"the database cannot be read or written: {error.orig}; check CLIP_PIPELINE_LEDGER_URL, that the folder is "
            "writable and the disk not full"
        ) from error


def _sqlite_engine(url: str, cache_kib: int) -> Engine:
    # A `?timeout=` of the URL, in seconds, is the driver's to read.
    timeout_s = {} if "timeout" in make_url(url).query else {"timeout": BUSY_TIMEOUT_S}
    engine = create_engine(url, connect_args={"check_same_thread": False} | timeout_s)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The driver's own implicit BEGIN is deferred; ours, below, is explicit.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA cache_size=-{cache_kib}")

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
        write_planner_statistics(connection)
