"""Moving a ledger to another database: every row as it is, proven equal, or nothing."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, Table, func, select
from sqlalchemy import text as sql_text

from clip_pipeline.core.errors import ConflictError, IntegrityError
from clip_pipeline.ledger.bulk import load_rows
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.engines import APPLICATION, POSTGRESQL
from clip_pipeline.ledger.schema import metadata

_FETCH_ROWS = 10_000

OnProgress = Callable[[str, int], None]
"""Called with the name of a table and how many more of its rows are copied."""


@dataclass(frozen=True, slots=True)
class MovedTable:
    """One table that was copied. digest: of all its rows whatever their order, the same in both databases."""

    name: str
    rows: int
    digest: str


@dataclass(slots=True)
class _Seen:
    """Rows that went by. total: the sum of their SHA-256 digests, which no order changes."""

    rows: int = 0
    total: int = 0

    def add(self, row: Sequence[object]) -> None:
        text = repr(tuple(row)).encode("utf-8", "surrogatepass")
        self.total = (self.total + int.from_bytes(hashlib.sha256(text).digest())) % (1 << 256)
        self.rows += 1


def rows_by_table(ledger: Ledger) -> dict[str, int]:
    """Rows of each table, in the order in which `move_ledger` copies them."""
    with ledger.read() as connection:
        return _rows_by_table(connection)


def other_sessions(ledger: Ledger) -> int:
    """Sessions of other processes of this project on the same database; 0 for SQLite, which knows of none."""
    if ledger.engine.dialect.name != POSTGRESQL:
        return 0
    # Each session of this process is one that the pool keeps; it has no more than it needed at once.
    query = sql_text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name "
        "AND pid <> pg_backend_pid()"
    )
    with ledger.read() as connection:
        return int(connection.execute(query, {"name": APPLICATION}).scalar_one())


def move_ledger(
    source: Ledger, target: Ledger, *, on_progress: OnProgress = lambda _name, _rows: None
) -> list[MovedTable]:
    """Copy every row of `source`, as it is at one moment, into the empty `target`, which goes on with its ids.

    In one transaction: killed at any moment, it leaves the target empty. Every table is read again from the target,
    and the copy kept only where its rows are equal.

    Raises:
        ConflictError: the target is not empty.
        IntegrityError: a table reads otherwise in the target.
    """
    with source.read() as reading, target.write() as writing:
        for connection in (reading, writing):
            _allow_to_wait(connection)
        _require_empty(writing)
        moved = [_copy(reading, writing, table, on_progress=on_progress) for table in metadata.sorted_tables]
        for table in metadata.sorted_tables:
            _continue_ids(reading, writing, table)
        if writing.dialect.name == POSTGRESQL:
            # Its planner knows nothing of these tables yet.
            writing.execute(sql_text("ANALYZE"))
    return moved


def _allow_to_wait(connection: Connection) -> None:
    """One of the two is idle while the other reads a large table, for longer than a frozen writer is waited for."""
    if connection.dialect.name == POSTGRESQL:
        connection.execute(sql_text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def _require_empty(connection: Connection) -> None:
    found = [f"{name}: {rows:,}" for name, rows in _rows_by_table(connection).items() if rows]
    if found:
        raise ConflictError(
            f"the new database holds a ledger already (rows of {', '.join(found)}), and two ledgers cannot become one; "
            "name a database that is new"
        )


def _rows_by_table(connection: Connection) -> dict[str, int]:
    return {
        table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in metadata.sorted_tables
    }


def _copy(reading: Connection, writing: Connection, table: Table, *, on_progress: OnProgress) -> MovedTable:
    sent, found = _Seen(), _Seen()

    def passing() -> Iterator[Sequence[object]]:
        for rows in _all_rows(reading, table):
            for row in rows:
                sent.add(row)
                yield row
            on_progress(table.name, len(rows))

    load_rows(writing, table, [column.name for column in table.columns], passing())
    for rows in _all_rows(writing, table):
        for row in rows:
            found.add(row)
    if sent != found:
        raise IntegrityError(
            f"the table {table.name} reads otherwise in the new database ({found.rows:,} rows) than in the old one "
            f"({sent.rows:,}), so nothing was kept; this must not happen, please report it"
        )
    return MovedTable(table.name, sent.rows, f"{sent.total:064x}")


def _all_rows(connection: Connection, table: Table) -> Iterator[Sequence[Row[tuple[object, ...]]]]:
    """All rows, some at a time: memory does not grow with the table."""
    result = connection.execute(select(table), execution_options={"yield_per": _FETCH_ROWS})
    yield from result.partitions()


def _continue_ids(reading: Connection, writing: Connection, table: Table) -> None:
    """Ids of rows that are gone must not be given again: releases and requests on disk still name them."""
    column = table.autoincrement_column
    if column is None:
        return
    last = _last_id(reading, table.name, column.name)
    if writing.dialect.name == POSTGRESQL:
        if last:
            query = sql_text("SELECT setval(pg_get_serial_sequence(:table, :column), :last)")
            writing.execute(query, {"table": table.name, "column": column.name, "last": last})
        return
    writing.execute(sql_text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
    values = {"name": table.name, "last": last}
    writing.execute(sql_text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)


def _last_id(connection: Connection, table: str, column: str) -> int:
    """The last id that was given to a row of the table, be it gone by now; 0 where none was."""
    if connection.dialect.name == POSTGRESQL:
        query = sql_text("SELECT pg_sequence_last_value(CAST(pg_get_serial_sequence(:name, :column) AS regclass))")
        found = connection.execute(query, {"name": table, "column": column})
    else:
        found = connection.execute(sql_text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table})
    return int(found.scalar() or 0)
