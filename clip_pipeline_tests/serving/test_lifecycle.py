"""Counts of the ledger and runs of Dagster become one of five words."""

import dataclasses

import pytest

from clip_pipeline.ledger.jobs import JobCounts
from clip_pipeline.serving.lifecycle import eta_seconds, iso_time, job_status, started_at
from clip_pipeline.serving.orchestrator import RunInfo

NOW = 1_000_000.0
FRESH = JobCounts(
    job_id="idx_1", source="api", priority=0, created_at="2025-11-14T14:30:25.000Z", started_at=None,
    completed_at=None, canceled_at=None, images_count=10, new_images_count=10, already_indexed_count=0, total=10,
    processed=0, failed=0, pending=10, error=None,
)  # fmt: skip


def counts(**changes):
    return dataclasses.replace(FRESH, **changes)


def run(status, *, work="embed:b0000001", created=NOW - 500, started=None, ended=None):
    return RunInfo(f"run-{status}-{created}", status, "embed", work, created, started, ended)


@pytest.mark.parametrize(
    ("given", "runs", "expected"),
    [
        (counts(), [], "queued"),
        (counts(), [run("QUEUED")], "queued"),
        (counts(), [run("STARTING")], "running"),
        (counts(), [run("STARTED")], "running"),
        (counts(processed=1), [], "running"),
        (counts(started_at="2025-11-14T14:30:26.000Z"), [], "running"),
        (counts(completed_at="2025-11-14T14:31:00.000Z"), [], "completed"),
        (counts(completed_at="2025-11-14T14:31:00.000Z"), [run("FAILURE", ended=NOW - 400)], "completed"),
        (counts(canceled_at="2025-11-14T14:31:00.000Z"), [run("STARTED")], "canceled"),
        (counts(error="out of disk"), [run("FAILURE", ended=NOW - 400)], "failed"),
        (counts(error="out of disk"), [run("FAILURE", ended=NOW - 400), run("STARTED")], "running"),
    ],
)
def test_counts_and_runs_decide_the_status(given, runs, expected):
    assert job_status(given, runs, now=NOW) == expected


def test_a_failed_run_that_will_be_asked_for_again_is_not_the_end():
    assert job_status(counts(), [run("FAILURE", ended=NOW - 400)], now=NOW) == "running"


def test_a_run_canceled_in_the_ui_ends_the_job_once_all_is_quiet():
    canceled = run("CANCELED", ended=NOW - 400)
    other = run("SUCCESS", work="embed:b0000002", ended=NOW - 300)
    assert job_status(counts(), [canceled, other], now=NOW) == "canceled"
    assert job_status(counts(), [canceled, dataclasses.replace(other, ended_at=NOW - 5)], now=NOW) == "running"
    assert job_status(counts(), [canceled, run("STARTED", work="merge")], now=NOW) == "running"
    failed = run("FAILURE", work="embed:b0000003", ended=NOW - 300)
    assert job_status(counts(), [canceled, failed], now=NOW) == "running", "the failed one is asked for again"


def test_a_canceled_run_that_was_run_again_counts_no_more():
    again = run("SUCCESS", created=NOW - 400, ended=NOW - 300)
    assert job_status(counts(), [again, run("CANCELED", ended=NOW - 450)], now=NOW) == "running"


def test_a_shared_run_that_was_canceled_counts_no_more_once_each_of_its_batches_was_run_again():
    shared = run("CANCELED", work="embed:b0000001:m embed:b0000002:m", ended=NOW - 400)
    again = [run("SUCCESS", work=f"embed:b000000{n}:m", created=NOW - 390, ended=NOW - 300) for n in (1, 2)]
    assert job_status(counts(), [shared], now=NOW) == "canceled"
    assert job_status(counts(), [shared, again[0]], now=NOW) == "canceled"
    assert job_status(counts(), [shared, *again], now=NOW) == "running"


def test_the_start_is_the_earliest_known():
    assert started_at(counts(), []) is None
    noted = counts(started_at="1970-01-12T13:46:40.500Z")
    assert started_at(noted, []) == "1970-01-12T13:46:40.500Z"
    runs = [run("STARTED", started=NOW + 9), run("SUCCESS", started=NOW)]
    assert started_at(noted, runs) == "1970-01-12T13:46:40.000Z" == iso_time(NOW)


def test_the_time_left_follows_the_mean_rate():
    started = iso_time(NOW - 30)
    assert eta_seconds(counts(processed=6), started=started, now=NOW) == 20.0
    assert eta_seconds(counts(processed=10), started=started, now=NOW) == 0.0
    assert eta_seconds(counts(processed=0), started=started, now=NOW) is None
    assert eta_seconds(counts(processed=6), started=None, now=NOW) is None
