"""A ledger in another database is the same ledger: every row equal, and it goes on where the old one stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from clip_pipeline.core.errors import ConflictError, IntegrityError
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger import bulk
from clip_pipeline.ledger.analysis_queue import complete
from clip_pipeline.ledger.analysis_requests import delete_analysis
from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.label_sets import create_label_set, use_label_set
from clip_pipeline.ledger.moving import move_ledger, rows_by_table
from clip_pipeline.ledger.schema import metadata
from clip_pipeline.ledger.upload_vectors import keep_vectors
from clip_pipeline_tests.ledger.analyses import digest, done, submit, take
from clip_pipeline_tests.ledger.steps import embed, finish, index_all, inspect, merge, plan, register
from clip_pipeline_tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
DIES_HALFWAY = """
import os, signal, sys
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.moving import move_ledger

def die(table, rows):
    if table == "job_files":
        os.kill(os.getpid(), signal.SIGKILL)

move_ledger(open_ledger(sys.argv[1]), open_ledger(sys.argv[2]), on_progress=die)
"""
ODD = {"/tab\t": "1", "/line\nbreak": "2", "/back\\slash \\N \\.": "3", "/\U0010ff80": "4", "/same": "4", "/gone": ""}


@pytest.fixture
def urls(tmp_path: Path, postgres: PostgresServer) -> Iterator[dict[str, str]]:
    """Two ledgers that hold nothing, one in each database."""
    in_server = postgres.new_database()
    yield {"sqlite": f"sqlite:///{tmp_path}/ledger.sqlite3", "postgres": in_server}
    postgres.give_back(in_server)


@pytest.fixture
def old(urls: dict[str, str]) -> Iterator[Ledger]:
    opened = open_ledger(urls["sqlite"])
    fill(opened)
    yield opened
    opened.close()


@pytest.fixture
def new(urls: dict[str, str]) -> Iterator[Ledger]:
    opened = open_ledger(urls["postgres"])
    yield opened
    opened.close()


def fill(ledger: Ledger) -> None:
    """Something of everything: odd paths, duplicates, failures, jobs open and closed, the last ids given and gone."""
    index_all(ledger, {path: content for path, content in ODD.items() if content})
    register(ledger, "/gone", "/broken", "/kept waiting", priority=-5)
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, {"/broken": "broken", "/kept waiting": "waits"})
    embed(ledger, batch, rows, failing={"/broken": ReasonCode.CORRUPT})
    register(ledger, "/same", version=7)
    create_key(ledger, "backup", scope=Scope.ADMIN, expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    create_label_set(ledger, "pets", labels=["cat", "Hund\\\t"], templates=["{}"])
    use_label_set(ledger, "pets")
    requests = submit(ledger, 5)
    take(ledger, most=2)
    complete(ledger, "run", [done(1)])
    vector = np.linspace(-1, 1, 16, dtype=np.float32)
    keep_vectors(ledger, {digest("image 1"): vector}, fingerprint="f" * 64)
    delete_analysis(ledger, requests[-1])


def contents(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    with ledger.read() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def test_every_row_of_every_table_is_equal(old: Ledger, new: Ledger):
    moved = move_ledger(old, new)
    assert contents(new) == contents(old)
    assert {table.name: table.rows for table in moved} == rows_by_table(old)
    used = {table.name for table in moved if table.rows}
    assert used >= {"jobs", "files", "images", "job_files", "batches", "releases", "api_keys", "analysis_requests",
                    "upload_vectors", "label_sets"}  # fmt: skip
    assert balance(new) == balance(old)


def test_there_and_back_again_is_the_same_ledger(old: Ledger, new: Ledger, tmp_path: Path):
    there = move_ledger(old, new)
    back = open_ledger(f"sqlite:///{tmp_path}/back.sqlite3")
    assert move_ledger(new, back) == there
    assert contents(back) == contents(old)
    assert submit(back, 1)
    assert max(seqs(back)) == 6
    back.close()


def test_ids_go_on_after_those_that_were_given_though_their_rows_are_gone(old: Ledger, new: Ledger):
    """The fifth request was deleted; its number must not be given to another."""
    move_ledger(old, new)
    submit(new, 1)
    assert seqs(new) == {1, 2, 3, 4, 6}
    before = len(contents(new)["files"])
    assert register(new, *[f"/new/{i}" for i in range(20)]).new_images_count == 20
    assert len(contents(new)["files"]) == before + 20
    finish(new, {"/same": "changed", "/kept waiting": "waits"} | {f"/new/{i}": f"new {i}" for i in range(20)}, number=2)
    merge(new, number=3)
    assert balance(new).faults == {}


def test_an_empty_ledger_moves_and_gives_the_first_ids(urls: dict[str, str], new: Ledger):
    empty = open_ledger(urls["sqlite"])
    assert sum(table.rows for table in move_ledger(empty, new)) == 0
    empty.close()
    submit(new, 1)
    assert seqs(new) == {1}


def test_a_ledger_that_holds_anything_is_not_overwritten(old: Ledger, new: Ledger):
    register(new, "/mine")
    with pytest.raises(ConflictError, match=r"holds a ledger already .*jobs: 1.*name a database that is new"):
        move_ledger(old, new)
    assert rows_by_table(new)["files"] == 1


def test_killed_halfway_it_leaves_nothing_and_is_done_again(urls: dict[str, str], old: Ledger, new: Ledger):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DIES_HALFWAY, urls["sqlite"], urls["postgres"]]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert set(rows_by_table(new).values()) == {0}
    move_ledger(old, new)
    assert contents(new) == contents(old)


def test_a_value_that_reads_otherwise_in_the_new_database_keeps_the_whole_copy_back(
    old: Ledger, new: Ledger, monkeypatch: pytest.MonkeyPatch
):
    written = bulk._field
    monkeypatch.setattr(bulk, "_field", lambda value: written("/other" if value == "/tab\t" else value))
    with pytest.raises(IntegrityError, match="the table files reads otherwise"):
        move_ledger(old, new)
    assert set(rows_by_table(new).values()) == {0}


def test_rows_beyond_one_fetch_and_one_copy_all_arrive(
    urls: dict[str, str], new: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "COPY_ROWS", 70)
    old = open_ledger(urls["sqlite"])
    register(old, *[f"/{i}" for i in range(500)])
    told: list[int] = []
    move_ledger(old, new, on_progress=lambda name, rows: told.append(rows) if name == "files" else None)
    assert sum(told) == 500
    assert contents(new) == contents(old)
    old.close()


def seqs(ledger: Ledger) -> set[int]:
    table = metadata.tables["analysis_requests"]
    with ledger.read() as connection:
        return set(connection.execute(select(table.c.seq)).scalars())
