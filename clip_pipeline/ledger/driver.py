"""The driver of SQLite itself, for what no transaction of SQLAlchemy can do: VACUUM, and copying a whole database."""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.failures import translated


@contextmanager
def sqlite_driver(ledger: Ledger) -> Generator[sqlite3.Connection, None, None]:
    """A connection of the driver to a SQLite ledger, in no transaction.

    Raises:
        LedgerBusyError, NoSpaceError, StoreError: for what the driver says in the block.
    """
    with translated():
        pooled = ledger.engine.raw_connection()
        try:
            connection = pooled.driver_connection
            assert isinstance(connection, sqlite3.Connection), type(connection)
            yield connection
        except sqlite3.OperationalError as error:
            raise OperationalError(None, None, error) from error
        finally:
            pooled.close()
