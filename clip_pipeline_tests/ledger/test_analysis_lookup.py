"""Looking at analysis requests: one, the recent ones, counts, and what has changed since a mark."""

import pytest
from sqlalchemy import update

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.ledger.analysis_lookup import (
    AnalysisMark,
    analysis_mark,
    analysis_of,
    analysis_stats,
    changed_since,
    recent_analyses,
)
from clip_pipeline.ledger.analysis_queue import Completed, Failed, complete, fail
from clip_pipeline.ledger.analysis_requests import submit_analysis
from clip_pipeline.ledger.schema import analysis_requests
from clip_pipeline_tests.ledger.analyses import TRUNCATED, done, submit, take, upload

START = "2026-01-01T00:00:00.000Z"


def stamp(ledger, seq, updated_at):
    with ledger.write() as connection:
        connection.execute(
            update(analysis_requests).where(analysis_requests.c.seq == seq).values(updated_at=updated_at)
        )


def test_a_request_is_shown_as_it_was_submitted(ledger):
    new = upload(labels=None)
    shown = analysis_of(ledger, submit_analysis(ledger, new))
    assert {name: getattr(shown, name) for name in new.__dataclass_fields__} == {
        name: getattr(new, name) for name in new.__dataclass_fields__
    }
    assert (shown.state, shown.attempts, shown.started_at, shown.reason) == ("submitted", 0, None, None)
    assert shown.submitted_at == shown.updated_at


@pytest.mark.parametrize("request_id", ["unknown", "", "x" * 5000, "\ud800"])
def test_an_unknown_request_is_an_error(ledger, request_id):
    with pytest.raises(NotFoundError, match="no analysis request"):
        analysis_of(ledger, request_id)


def test_recent_requests_come_newest_first_in_pages(ledger):
    ids = submit(ledger, 5)
    first = recent_analyses(ledger, most=2)
    assert [one.request_id for one in first] == [ids[4], ids[3]]
    assert [one.request_id for one in recent_analyses(ledger, before=first[-1].seq)] == [ids[2], ids[1], ids[0]]


def test_counts_add_up_and_the_mean_is_of_what_was_completed(ledger):
    empty = analysis_stats(ledger)
    assert (empty.total, empty.completion_rate, empty.mean_processing_time_ms) == (0, 0.0, None)
    submit(ledger, 5)
    take(ledger, most=4)
    complete(ledger, "run", [Completed(1, "{}", 10.0), Completed(2, "{}", 20.0)])
    fail(ledger, "run", [Failed(3, TRUNCATED)])
    stats = analysis_stats(ledger)
    assert (stats.submitted, stats.processing, stats.completed, stats.failed, stats.total) == (1, 1, 2, 1, 5)
    assert (stats.completion_rate, stats.mean_processing_time_ms) == (0.4, 15.0)


def test_each_change_after_the_mark_is_told_once(ledger):
    submit(ledger, 1)
    mark, told = analysis_mark(ledger), []
    steps = [
        lambda: submit(ledger, 2),
        lambda: take(ledger, most=2),
        lambda: complete(ledger, "run", [done(1)]),
        lambda: fail(ledger, "run", [Failed(2, TRUNCATED)]),
    ]
    for step in steps:
        step()
        for _ in range(2):
            changed, mark = changed_since(ledger, mark)
            told += [(one.seq, one.state.value) for one in changed]
    assert told == [
        (2, "submitted"), (3, "submitted"), (1, "processing"), (2, "processing"), (1, "completed"), (2, "failed"),
    ]  # fmt: skip


def test_more_changes_than_asked_for_are_told_in_turn(ledger):
    submit(ledger, 7)
    mark, told = AnalysisMark(START), []
    for _ in range(4):
        changed, mark = changed_since(ledger, mark, most=2)
        told.append([one.seq for one in changed])
    assert told == [[1, 2], [3, 4], [5, 6], [7]]
    assert changed_since(ledger, mark, most=2)[0] == []


def test_a_change_that_becomes_visible_late_is_told(ledger):
    submit(ledger, 3)
    # As if it had been committed after the other two, with a time stamp taken before.
    stamp(ledger, 3, START)
    stamp(ledger, 1, "2026-01-01T00:10:00.000Z")
    stamp(ledger, 2, "2026-01-01T00:10:01.000Z")
    changed, mark = changed_since(ledger, AnalysisMark("2026-01-01T00:05:00.000Z"))
    assert [one.seq for one in changed] == [1, 2]
    stamp(ledger, 3, "2026-01-01T00:09:59.500Z")
    changed, mark = changed_since(ledger, mark)
    assert [one.seq for one in changed] == [3]
    assert changed_since(ledger, mark)[0] == []
