"""The clock of the database: the one clock that every process of a deployment can read, whatever its own says."""

import time
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, func, select

from clip_pipeline.ledger.database import Ledger


def database_time(connection: Connection) -> ColumnElement[str]:
    """The moment as every table stores it, by the database's clock; for statements, so that it costs no question."""
    if connection.dialect.name == "postgresql":
        utc = func.timezone("utc", func.clock_timestamp())
        return func.to_char(utc, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
    return func.strftime("%Y-%m-%dT%H:%M:%fZ", "now")


def clock_difference_s(ledger: Ledger) -> float:
    """Seconds that this machine's clock is ahead of the database's; negative: behind it."""
    with ledger.read() as connection:
        connection.execute(select(1))  # connecting takes time, which the question below must not
        before_s = time.time()
        told = connection.execute(select(database_time(connection))).scalar_one()
        after_s = time.time()
    return (before_s + after_s) / 2 - datetime.fromisoformat(told).timestamp()


def seconds_between(earlier: str, later: str) -> float:
    """From one stored moment to another; negative where the first is the later one."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
