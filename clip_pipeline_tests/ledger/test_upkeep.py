"""The ledger's database is kept in shape beside whoever works, and its content stays what it is."""

import threading

from sqlalchemy import text

from clip_pipeline.ledger import upkeep
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.engines import POSTGRESQL
from clip_pipeline.ledger.planner_statistics import ROWS_BY_INDEX
from clip_pipeline.ledger.upkeep import keep_up, look_at
from clip_pipeline_tests.ledger import steps


def is_postgres(ledger):
    return ledger.engine.dialect.name == POSTGRESQL


def fill_and_empty(ledger):
    """Leaves much of the database free."""
    with ledger.write() as connection:
        connection.execute(text("CREATE TABLE ballast (content TEXT)"))
        connection.execute(text("INSERT INTO ballast (content) VALUES (:c)"), [{"c": "x" * 4000}] * 500)
    with ledger.write() as connection:
        connection.execute(text("DROP TABLE ballast"))


def test_free_space_is_given_back_and_no_row_is_lost(ledger, monkeypatch):
    monkeypatch.setattr(upkeep, "FREE_BYTES", 1024**2)
    steps.index_all(ledger, {f"/p/{i}": str(i) for i in range(15)})
    before = balance(ledger)
    fill_and_empty(ledger)
    if not is_postgres(ledger):
        assert look_at(ledger).is_due
        assert look_at(ledger).free_bytes > 1_000_000
    done = keep_up(ledger)
    assert done.vacuumed
    assert done.database_bytes > 0
    if not is_postgres(ledger):
        assert done.free_bytes < 100_000
    assert balance(ledger) == before


def test_a_large_sqlite_ledger_is_written_anew_only_when_a_person_asks(ledger, monkeypatch):
    if is_postgres(ledger):
        return
    monkeypatch.setattr(upkeep, "FREE_BYTES", 1024**2)
    fill_and_empty(ledger)
    kept = keep_up(ledger, most_bytes=1000)
    assert (kept.vacuumed, kept.is_due) == (False, True)
    assert keep_up(ledger, most_bytes=None).vacuumed


def test_a_ledger_without_much_free_space_is_left_as_it_is(ledger):
    steps.index_all(ledger, {"/a": "1"})
    done = keep_up(ledger)
    assert not done.is_due
    assert done.vacuumed == is_postgres(ledger)


def test_the_planner_knows_the_tables_afterwards(ledger):
    """SQLite is told, and must not measure anew; PostgreSQL measures."""
    steps.index_all(ledger, {f"/p/{i}": str(i) for i in range(15)})
    if not is_postgres(ledger):
        with ledger.write() as connection:
            connection.execute(text("ANALYZE"))
    keep_up(ledger)
    with ledger.read() as connection:
        if is_postgres(ledger):
            known = text("SELECT reltuples FROM pg_class WHERE relname = 'files'")
            assert connection.execute(known).scalar() == 15
        else:
            rows = connection.execute(text("SELECT tbl, idx, stat FROM sqlite_stat1")).all()
            assert {(table, index): stat for table, index, stat in rows} == ROWS_BY_INDEX


def test_readers_and_writers_go_on_meanwhile(ledger, monkeypatch):
    monkeypatch.setattr(upkeep, "FREE_BYTES", 0)
    monkeypatch.setattr(upkeep, "FREE_SHARE", 0.0)
    faults = []

    def write():
        try:
            for number in range(20):
                steps.register(ledger, f"/w/{number}")
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(5):
        keep_up(ledger)
    writer.join()
    assert faults == []
    assert balance(ledger).files["registered"] == 20
