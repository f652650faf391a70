"""Many rows into one table: by COPY on PostgreSQL, by one prepared statement on SQLite."""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, insert
from sqlalchemy.exc import DBAPIError

from clip_pipeline.ledger.engines import POSTGRESQL

INSERT_ROWS = 5_000
COPY_ROWS = 50_000
_READ_CHARACTERS = 1 << 20
_ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def load_rows(connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Insert the rows, whose values are those of the named columns in this order, as part of the transaction."""
    if connection.dialect.name == POSTGRESQL:
        for piece in _pieces(rows, COPY_ROWS):
            _copy(connection, table, columns, piece)
        return
    for piece in _pieces(rows, INSERT_ROWS):
        connection.execute(insert(table), [dict(zip(columns, row, strict=True)) for row in piece])


def _copy(connection: Connection, table: Table, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    statement = f"COPY {quote(table.name)} ({', '.join(map(quote, columns))}) FROM STDIN"
    lines = io.StringIO("".join("\t".join(map(_field, row)) + "\n" for row in rows))
    driver: Any = connection.dialect.dbapi
    pooled = connection.connection
    cursor: Any = pooled.cursor()
    try:
        cursor.copy_expert(statement, lines, _READ_CHARACTERS)
    except driver.Error as error:
        # Past SQLAlchemy, which would have said the same and let go of a connection that is no more.
        is_lost = bool(getattr(pooled.driver_connection, "closed", 0))
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(statement, None, error, driver.Error, connection_invalidated=is_lost) from error
    finally:
        cursor.close()


def _field(value: object) -> str:
    """One value in the text format of COPY."""
    if isinstance(value, str):
        return value.translate(_ESCAPED)
    if value is None:
        return r"\N"
    if isinstance(value, bytes):
        return rf"\\x{value.hex()}"
    return str(value)


def _pieces(rows: Iterable[Sequence[object]], size: int) -> Iterator[list[Sequence[object]]]:
    iterator = iter(rows)
    while piece := list(islice(iterator, size)):
        yield piece
