"""Opening the ledger: one engine for each process, migrated, and the two kinds of transaction."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, CursorResult, Engine, Insert, Table
from sqlalchemy import text as sql_text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, ProgrammingError

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.engines import POSTGRESQL, READ_ONLY, WRITE, ledger_file, make_engine, parse_url
from clip_pipeline.ledger.failures import is_lost_connection, translated
from clip_pipeline.ledger.planner_statistics import write_planner_statistics

CACHE_KIB = 64 * 1024
LARGE_CACHE_KIB = 256 * 1024
"""For a process that registers 100,000 paths: what they change, spread over a million files, is 140 MB of pages.
Measured: 0.8 s where they fit into the cache of SQLite, 2.3 s where they do not."""
PATIENCE_S = 2.0
"""How long a transaction waits, before it begins, for a server that does not answer: one that restarts is soon back."""
LONG_PATIENCE_S = 30.0
"""For work that would be lost, and which nobody waits for."""
_TRY_EVERY_S = 0.2
_WRITER_LOCK = 0x636C6970  # the ASCII of "clip"; one writer at a time, as SQLite has it by nature


@dataclass(frozen=True, slots=True)
class Ledger:
    """Read and write transactions on one database. Safe to share between threads."""

    engine: Engine
    patience_s: float = PATIENCE_S

    @contextmanager
    def read(self) -> Generator[Connection, None, None]:
        """A transaction that sees one state of the ledger and changes nothing.

        Raises:
            LedgerBusyError, StoreError: as for `write`.
        """
        with translated(), self._begun(READ_ONLY[self.engine.dialect.name]) as connection:
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection, None, None]:
        """A transaction that commits as a whole or not at all; writers queue, readers go on.

        Taking the write lock at its start (BEGIN IMMEDIATE, an advisory lock on PostgreSQL) is what keeps two
        submissions of the same path from both finding it new.

        Raises:
            LedgerBusyError: the lock was held by others for `BUSY_TIMEOUT_S`; nothing is written.
            StoreError: the database cannot be reached, or not be written.
        """
        with translated(), self._begun({WRITE: True}, lock=_WRITER_LOCK) as connection:
            yield connection

    @contextmanager
    def write_rows(self) -> Generator[Connection, None, None]:
        """A write transaction that protects its rows by itself: with locks on them, or unique keys.

        On PostgreSQL it does not queue behind `write`, so a large registration holds no small change up. SQLite has
        one writer at a time, whatever it writes.
        """
        with translated(), self._begun({WRITE: True}) as connection:
            yield connection

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _begun(self, options: Mapping[str, Any], *, lock: int | None = None) -> Generator[Connection, None, None]:
        """A transaction with its lock. Until it has that it has done nothing, so that may be tried again."""
        deadline = time.monotonic() + self.patience_s
        with ExitStack() as stack:
            while True:
                try:
                    connection = stack.enter_context(self.engine.connect()).execution_options(**options)
                    stack.enter_context(connection.begin())
                    _take(connection, lock)
                    break
                except DBAPIError as error:
                    # As an exception leaves them: an end in good order would commit on a connection that is no more.
                    stack.__exit__(type(error), error, error.__traceback__)
                    if not is_lost_connection(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(_TRY_EVERY_S)
            yield connection


def open_ledger(url: str, *, cache_kib: int = CACHE_KIB, patience_s: float = PATIENCE_S) -> Ledger:
    """The ledger at `url`, created or migrated to the newest schema first.

    cache_kib: the most that SQLite caches. patience_s: how long its transactions wait for a server to come back; a
    server that does not answer now is not waited for.

    Raises:
        ConfigurationError: the URL is not that of a database which a ledger can be in.
        StoreError: the database cannot be opened, or is not a ledger's.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    return _opened(parsed, _migrate, cache_kib=cache_kib, patience_s=patience_s)


def open_existing_ledger(url: str, *, patience_s: float = PATIENCE_S) -> Ledger:
    """The ledger at `url` as it is, for whoever must neither make nor migrate one. patience_s: as in `open_ledger`.

    Raises:
        ConfigurationError, StoreError: as `open_ledger`; also where there is none, or one of another schema.
    """
    file = ledger_file(url)
    if file is not None and not file.exists():
        raise StoreError(f"no ledger is at {file}; make it with `clip-pipeline init`, on the controller")
    return _opened(parse_url(url), _require_head, cache_kib=CACHE_KIB, patience_s=patience_s)


def _opened(url: URL, prepare: Callable[[Engine], None], *, cache_kib: int, patience_s: float) -> Ledger:
    engine = make_engine(url, cache_kib=cache_kib)
    try:
        with translated():
            prepare(engine)
    except StoreError as error:
        engine.dispose()
        raise type(error)(f"cannot open the ledger {url.render_as_string()}: {error}") from error
    return Ledger(engine, patience_s)


def inserted_id(created: CursorResult[Any]) -> int:
    """The primary key that the database gave to the one row just inserted."""
    key: Any = created.inserted_primary_key
    return int(key[0])


def insert_if_new(connection: Connection, table: Table) -> Insert:
    """An INSERT that leaves out every row whose key is taken; the count of the result is that of rows inserted."""
    if connection.dialect.name == POSTGRESQL:
        return postgresql.insert(table).on_conflict_do_nothing()
    return sqlite.insert(table).on_conflict_do_nothing()


def utc_now() -> str:
    """The time as every table stores it: UTC, ISO 8601 with milliseconds, ending in Z."""
    return iso_utc(datetime.now(UTC))


def iso_utc(moment: datetime) -> str:
    """An aware moment as every table stores it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _take(connection: Connection, lock: int | None) -> None:
    if lock is not None and connection.dialect.name == POSTGRESQL:
        connection.execute(sql_text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock})


def _migrate(engine: Engine) -> None:
    """Bring the schema to head. Processes that start together queue on the write lock; all but one find it done."""
    config, script = _migrations()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == script.get_current_head():
            return
        _require_fit(connection, script, current=current)
    try:
        with Ledger(engine).write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            write_planner_statistics(connection)
    except ProgrammingError as error:
        said = " ".join(str(error.orig).split())
        raise StoreError(f"its tables cannot be made ({said}); give the ledger a database of its own") from error


def _require_head(engine: Engine) -> None:
    """Raises StoreError where the schema is not the one that this code knows."""
    _, script = _migrations()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current == script.get_current_head():
            return
        _require_fit(connection, script, current=current)
    has = f"has schema {current}" if current else "holds no ledger"
    raise StoreError(
        f"it {has}, this version works with {script.get_current_head()}; run `clip-pipeline init` of this version on "
        "the controller"
    )


def _migrations() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config, ScriptDirectory.from_config(config)


def _require_fit(connection: Connection, script: ScriptDirectory, *, current: str | None) -> None:
    """Raises StoreError where the database is not one to make or change the ledger's tables in."""
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(
            f"its schema {current!r} is none of the ledger's: it was made by a newer clip-pipeline, or is that of "
            "another program such as Dagster; give the ledger a database of its own"
        )
    if connection.dialect.name == POSTGRESQL:
        encoding = connection.execute(sql_text("SELECT current_setting('server_encoding')")).scalar_one()
        if encoding != "UTF8":
            raise StoreError(
                f"its encoding is {encoding}, which cannot hold every path; make the database with "
                "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )
