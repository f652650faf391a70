"""Engines: how a process talks to SQLite and to PostgreSQL, so that both keep the promises of `Ledger`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from clip_pipeline.core.errors import ConfigurationError

BUSY_TIMEOUT_S = 60
WRITE = "clip_write"
"""Execution option of a connection whose transaction writes."""

POSTGRESQL = "postgresql"
APPLICATION = "clip-pipeline"
"""What sessions of this project call themselves on a PostgreSQL server."""
_SQLITE = "sqlite"

# A transaction whose owner is frozen or cut off must not keep the write lock from all others.
_IDLE_TIMEOUT_S = 60
_SESSION = {
    "lock_timeout": f"{BUSY_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": f"{_IDLE_TIMEOUT_S}s",
    # What the server does to find that a client is gone, the network and all.
    "tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3",
    # Compiling costs more than it saves: every query here is short, or one pass over an index.
    "jit": "off",
}  # fmt: skip
# What the client does to find that a server is gone; without it a call may wait for hours.
_CLIENT = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 60_000, "application_name": APPLICATION,
    "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
}  # fmt: skip

READ_ONLY: Mapping[str, Mapping[str, Any]] = {
    _SQLITE: {},
    # One snapshot for all statements, as SQLite has it by nature. It never conflicts, since it only reads.
    POSTGRESQL: {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
"""Name of the dialect -> execution options of a connection whose transaction reads one state."""


def parse_url(url: str) -> URL:
    """The URL of a ledger.

    Raises:
        ConfigurationError: it is none, or that of a database which no ledger can be in.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError(f"CLIP_PIPELINE_LEDGER_URL is no URL of a database; {_EXPECTED}") from error
    if parsed.get_backend_name() not in (_SQLITE, POSTGRESQL):
        raise ConfigurationError(f"CLIP_PIPELINE_LEDGER_URL begins with {parsed.drivername}://; {_EXPECTED}")
    return parsed


def ledger_file(url: str) -> Path | None:
    """The file of a ledger in SQLite, None for any other. Raises ConfigurationError."""
    parsed = parse_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == _SQLITE and parsed.database else None


def shown_url(url: str) -> str:
    """The URL as people may see it: without its password. Raises ConfigurationError."""
    return parse_url(url).render_as_string(hide_password=True)


def make_engine(url: URL, *, cache_kib: int) -> Engine:
    """The engine for the database at `url`; nothing is opened yet. cache_kib: the most that SQLite caches.

    Raises:
        ConfigurationError: the driver is not installed.
    """
    return _sqlite_engine(url, cache_kib) if url.get_backend_name() == _SQLITE else _postgres_engine(url)


def _postgres_engine(url: URL) -> Engine:
    # What the URL says of itself wins.
    given = {name: value for name, value in _CLIENT.items() if name not in url.query}
    try:
        return create_engine(
            url, connect_args=given, pool_pre_ping=True, use_native_hstore=False,
            # After the lock was waited for, a writer must see what its predecessor wrote.
            isolation_level="READ COMMITTED",
            # UPDATE of many rows by their keys: a hundred in one message, not one.
            executemany_mode="values_plus_batch",
        )  # fmt: skip
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the driver of PostgreSQL is not installed ({error.name}): pip install 'clip-pipeline[postgres]'"
        ) from error


def _sqlite_engine(url: URL, cache_kib: int) -> Engine:
    # A `?timeout=` of the URL, in seconds, is the driver's to read.
    timeout_s = {} if "timeout" in url.query else {"timeout": BUSY_TIMEOUT_S}
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
        immediate = connection.get_execution_options().get(WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


_EXPECTED = (
    "expected postgresql://user:password@host:5432/database or sqlite:////folder/ledger.sqlite3, with special "
    "characters of a password written as %XX"
)
