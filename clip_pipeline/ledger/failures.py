"""What a database says when it cannot do as asked, as errors of this project."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from clip_pipeline.core.errors import LedgerBusyError, NoSpaceError, QueryError, StoreError

# Codes of PostgreSQL, https://www.postgresql.org/docs/current/errcodes-appendix.html
_BUSY = frozenset({"55P03", "40P01", "40001"})  # the lock timeout, a deadlock, a conflict of two transactions
_REFUSED = frozenset({"25006", "42501"})  # a server that only reads (a standby), a right that the user lacks


@contextmanager
def translated() -> Generator[None, None, None]:
    """What the driver says of a lock, a disk or a connection, raised as an error of this project.

    Any other error is a fault of the code and goes on as it is.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise LedgerBusyError("every connection of this process to the ledger is in use; try again") from error
    except DBAPIError as error:
        meaning = _meaning(error)
        if meaning is None:
            raise
        raise meaning from error
    except ValueError as error:
        # What psycopg says of a text that PostgreSQL has no form for; SQLite takes it, and finds nothing.
        if "NUL (0x00)" not in str(error):
            raise
        raise QueryError(
            "a text with a NUL character in it can neither be looked for nor kept; leave it out"
        ) from error


def is_lost_connection(error: DBAPIError) -> bool:
    """True where a server could not be reached, or went away: what a server that restarts looks like."""
    if isinstance(error.orig, sqlite3.Error):
        return False
    # A failure to connect has no code: nothing that speaks the protocol has answered, or it let nobody in.
    return error.connection_invalidated or (isinstance(error, OperationalError) and _code(error) is None)


def _meaning(error: DBAPIError) -> StoreError | None:
    said, code = " ".join(str(error.orig).split()), _code(error)
    if code in _BUSY or _is_sqlite_lock(error):
        return LedgerBusyError(
            f"the ledger is in use by another writer ({said}), nothing was written; try again. If it stays so, look "
            "for a process that holds it: the file (SQLite), or the oldest transaction in pg_stat_activity (PostgreSQL)"
        )
    # SQLite: "database or disk is full"; PostgreSQL, code 53100: "No space left on device".
    if code == "53100" or "disk is full" in said.lower() or "no space left" in said.lower():
        return NoSpaceError("the disk of the ledger is full, so nothing was recorded; free some space")
    if isinstance(error.orig, sqlite3.OperationalError):
        return StoreError(
            f"the database cannot be read or written: {said}; check CLIP_PIPELINE_LEDGER_URL, that the folder is "
            "writable and the disk not full"
        )
    if code in _REFUSED or error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return StoreError(
            f"the database cannot be read or written: {said}; check CLIP_PIPELINE_LEDGER_URL, that the PostgreSQL "
            "server runs and can be reached, and that the user owns the database"
        )
    return None


def _is_sqlite_lock(error: DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # its low byte: the rest says which kind of busy
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code(error: DBAPIError) -> str | None:
    return getattr(error.orig, "pgcode", None)
