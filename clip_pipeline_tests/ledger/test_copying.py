"""The whole ledger as one file, from either database and back to it, at one moment."""

import sqlite3
import threading

import pytest
from sqlalchemy import select

from clip_pipeline.core.errors import ConflictError, IntegrityError
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.copying import copy_ledger, ledger_is_empty, put_ledger, read_copy
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.schema import metadata
from clip_pipeline_tests.ledger import steps


def rows_of(ledger):
    with ledger.read() as connection:
        return {
            table.name: [tuple(r) for r in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in metadata.sorted_tables
        }


def opened(url):
    return open_ledger(url)


def test_a_copy_put_elsewhere_has_every_row_and_goes_on_counting(ledger, new_ledger_url, tmp_path):
    steps.index_all(ledger, {f"/p/{i}": str(i % 7) for i in range(20)})
    copy_ledger(ledger, tmp_path / "copy.sqlite3")
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.sqlite3"]
    workplace, url = tmp_path / "work", new_ledger_url()
    workplace.mkdir()
    assert ledger_is_empty(url)
    put_ledger(tmp_path / "copy.sqlite3", url, workplace=workplace)
    assert not ledger_is_empty(url)
    restored = opened(url)
    assert rows_of(restored) == rows_of(ledger)
    steps.register(restored, "/new")
    steps.finish(restored, {"/new": "new"}, number=2)
    assert balance(restored).holds
    assert balance(restored).images["indexed"] == 8
    restored.close()


def test_a_copy_taken_while_others_write_is_of_one_moment(ledger, tmp_path):
    go_on = threading.Event()
    go_on.set()

    def write():
        number = 0
        while go_on.is_set():
            number += 1
            steps.register(ledger, *(f"/w/{number}-{i}" for i in range(10)))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            copy_ledger(ledger, tmp_path / f"{number}.sqlite3")
    finally:
        go_on.clear()
        writer.join()
    for number in range(3):
        workplace = tmp_path / f"work{number}"
        workplace.mkdir()
        copy = read_copy(tmp_path / f"{number}.sqlite3", workplace)
        counts = balance(copy)
        assert counts.holds
        assert counts.files["registered"] % 10 == 0
        copy.close()


def test_a_ledger_is_never_put_over_another(ledger, ledger_url, tmp_path):
    steps.index_all(ledger, {"/a": "1"})
    copy_ledger(ledger, tmp_path / "copy.sqlite3")
    with pytest.raises(ConflictError):
        put_ledger(tmp_path / "copy.sqlite3", ledger_url, workplace=tmp_path)


def test_a_damaged_copy_is_refused(ledger, new_ledger_url, tmp_path):
    copy_ledger(ledger, tmp_path / "copy.sqlite3")
    content = bytearray((tmp_path / "copy.sqlite3").read_bytes())
    content[4096:20_000] = b"\xff" * (20_000 - 4096)
    (tmp_path / "copy.sqlite3").write_bytes(content)
    workplace = tmp_path / "work"
    workplace.mkdir()
    with pytest.raises(IntegrityError, match="no sound ledger"):
        put_ledger(tmp_path / "copy.sqlite3", new_ledger_url(), workplace=workplace)
    (tmp_path / "copy.sqlite3").write_bytes(b"no database at all, but long enough to be looked at")
    with pytest.raises(IntegrityError):
        read_copy(tmp_path / "copy.sqlite3", workplace)


def test_a_copy_is_a_plain_sqlite_file(ledger, tmp_path):
    steps.index_all(ledger, {"/a": "1"})
    copy_ledger(ledger, tmp_path / "copy.sqlite3")
    connection = sqlite3.connect(tmp_path / "copy.sqlite3")
    assert connection.execute("SELECT path, state FROM files").fetchall() == [("/a", "indexed")]
    connection.close()
