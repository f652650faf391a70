"""How SQLite finds rows: a statement about some images must not go through all that are in the same state."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.planner_statistics import ROWS_BY_INDEX
from clip_pipeline_tests.ledger.steps import finish, index_all, register

BY_STATE_ALONE = "(state=?)"
ABOUT_SOME = ("image_id IN", "image_id =", "file_id IN", "file_id =", "path =")


@pytest.fixture
def sqlite_ledger(tmp_path) -> Iterator[Ledger]:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    yield ledger
    ledger.close()


def test_no_statement_of_a_life_of_images_looks_for_some_of_them_among_all_of_a_state(sqlite_ledger):
    plans: dict[str, list[str]] = {}

    @event.listens_for(sqlite_ledger.engine, "before_cursor_execute")
    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "INSERT", "DELETE")) and any(a in statement for a in ABOUT_SOME):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters[0] if many else parameters)
            plans[statement] = [row[3] for row in cursor.fetchall()]

    contents = {f"/photos/{n}": str(n) for n in range(5)}
    index_all(sqlite_ledger, contents)
    register(sqlite_ledger, *contents, version=2)
    finish(sqlite_ledger, contents | {"/photos/0": "another"}, number=2)

    assert len(plans) > 10
    assert not {s: p for s, p in plans.items() if any(BY_STATE_ALONE in step for step in p)}


def test_every_index_that_the_planner_is_told_of_is_there(sqlite_ledger):
    with sqlite_ledger.read() as connection:
        told = connection.execute(text("SELECT tbl, idx FROM sqlite_stat1")).tuples().all()
        there = set(connection.execute(text("SELECT name FROM sqlite_master")).scalars())

    assert set(told) == set(ROWS_BY_INDEX)
    assert {index for _, index in told} <= there
