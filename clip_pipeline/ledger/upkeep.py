"""Keeping the database itself in shape: statistics for its planner, its log folded in, free pages given back."""

import sqlite3
from dataclasses import dataclass

from sqlalchemy import Connection, text

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.driver import sqlite_driver
from clip_pipeline.ledger.engines import POSTGRESQL
from clip_pipeline.ledger.failures import translated
from clip_pipeline.ledger.planner_statistics import write_planner_statistics

FREE_SHARE = 0.25
FREE_BYTES = 32 * 1024**2
"""A file is written anew when a quarter of it is free, and it is worth the trouble."""
HELD_UP_BYTES = 512 * 1024**2
"""Writing so much anew keeps other writers waiting for a few seconds; of more, only a person decides."""


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What was done. database_bytes, free_bytes: after it; vacuumed: whether the whole was rewritten or, in
    PostgreSQL, cleaned; is_due: it should be rewritten, but takes so long that a person has to ask for it."""

    backend: str
    database_bytes: int
    free_bytes: int
    vacuumed: bool
    is_due: bool


def keep_up(ledger: Ledger, *, most_bytes: int | None = HELD_UP_BYTES) -> Upkeep:
    """Refresh statistics and give free space back, beside whoever works.

    most_bytes: a SQLite file with more than that in use is not written anew, for everybody who writes would wait for
    it; None: however large it is.

    Raises:
        LedgerBusyError: other writers left no gap for as long as writers wait.
    """
    if ledger.engine.dialect.name == POSTGRESQL:
        return _keep_up_postgresql(ledger)
    return _keep_up_sqlite(ledger, most_bytes=most_bytes)


def _keep_up_postgresql(ledger: Ledger) -> Upkeep:
    with translated(), ledger.engine.connect() as plain:
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")  # VACUUM takes no transaction around it
        tables = connection.execute(text("SELECT relname FROM pg_stat_user_tables ORDER BY relname")).scalars()
        for table in list(tables):
            connection.execute(text(f'VACUUM (ANALYZE) "{table}"'))
        size = _postgresql_bytes(connection)
    return Upkeep(POSTGRESQL, size, 0, vacuumed=True, is_due=False)


def look_at(ledger: Ledger) -> Upkeep:
    """How large the database is, and whether writing it anew is worth it; nothing is done."""
    if ledger.engine.dialect.name == POSTGRESQL:
        with translated(), ledger.engine.connect() as connection:
            return Upkeep(POSTGRESQL, _postgresql_bytes(connection), 0, vacuumed=False, is_due=True)
    with sqlite_driver(ledger) as connection:
        size, free = _sizes(connection)
    return Upkeep("sqlite", size, free, vacuumed=False, is_due=_is_worth_it(size, free))


def _keep_up_sqlite(ledger: Ledger, *, most_bytes: int | None) -> Upkeep:
    with ledger.write() as writing:
        write_planner_statistics(writing)  # and no `PRAGMA optimize`, which would measure others in their place
    with sqlite_driver(ledger) as connection:
        size, free = _sizes(connection)
        worth_it = _is_worth_it(size, free)
        allowed = most_bytes is None or size - free <= most_bytes
        if worth_it and allowed:
            connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # as much of the log as readers let go of
        size, free = _sizes(connection)
    return Upkeep("sqlite", size, free, vacuumed=worth_it and allowed, is_due=worth_it and not allowed)


def _is_worth_it(size_bytes: int, free_bytes: int) -> bool:
    return free_bytes >= FREE_BYTES and free_bytes >= FREE_SHARE * size_bytes


def _postgresql_bytes(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def _sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the database, and how many of them are free pages."""
    pages, free, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return pages * page_bytes, free * page_bytes
