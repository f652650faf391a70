"""Registration: what counts as new, changed, known, under way."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.jobs import job_counts
from clip_pipeline.ledger.lookup import failed_files
from clip_pipeline.ledger.registration import Submission, register_files
from clip_pipeline_tests.ledger.steps import embed, facts, finish, index_all, inspect, plan, register


def test_unknown_paths_are_new_and_a_repeated_path_counts_once(ledger: Ledger):
    done = register(ledger, "/a", "/b", "/a")
    assert (done.images_count, done.new_images_count, done.already_indexed_count) == (2, 2, 0)
    assert balance(ledger).files["registered"] == 2


def test_indexed_unchanged_paths_are_skipped_and_the_job_is_complete_at_once(ledger: Ledger):
    index_all(ledger, {"/a": "x", "/b": "y"})
    again = register(ledger, "/a", "/b")
    assert (again.new_images_count, again.already_indexed_count) == (0, 2)
    counts = job_counts(ledger, again.job_id)
    assert counts.completed_at is not None
    assert (counts.total, counts.processed, counts.percent_complete) == (0, 0, 100.0)


def test_duplicates_count_as_known(ledger: Ledger):
    index_all(ledger, {"/a": "same", "/b": "same"})
    assert register(ledger, "/a", "/b").already_indexed_count == 2


def test_a_changed_file_is_new_and_its_old_content_leaves(ledger: Ledger):
    index_all(ledger, {"/a": "old"})
    changed = register(ledger, "/a", version=2)
    assert changed.new_images_count == 1
    assert balance(ledger).images["deleted"] == 1
    finish(ledger, {"/a": "new"}, number=2)
    found = balance(ledger)
    assert (found.images["indexed"], found.images["deleted"], found.faults) == (1, 1, {})


def test_a_failed_path_is_tried_again(ledger: Ledger):
    register(ledger, "/gone")
    finish(ledger, {})
    assert failed_files(ledger)[0].reason.startswith("missing")
    again = register(ledger, "/gone")
    assert again.new_images_count == 1
    finish(ledger, {"/gone": "now there"}, number=2)
    assert balance(ledger).files["indexed"] == 1


def test_paths_under_way_are_waited_for_and_not_queued_twice(ledger: Ledger):
    first = register(ledger, "/a", "/b")
    second = register(ledger, "/a", "/b", "/c")
    assert (second.new_images_count, second.already_indexed_count, second.pending_count) == (1, 2, 2)
    assert job_counts(ledger, second.job_id).total == 3
    finish(ledger, {"/a": "1", "/b": "2", "/c": "3"})
    assert all(job_counts(ledger, job.job_id).completed_at is not None for job in (first, second))


def test_a_completed_job_stays_completed_when_its_file_changes_later(ledger: Ledger):
    first = register(ledger, "/a")
    finish(ledger, {"/a": "1"})
    register(ledger, "/a", version=2)
    counts = job_counts(ledger, first.job_id)
    assert counts.completed_at is not None
    assert counts.processed == counts.total == 1


def test_progress_counts_images_of_a_run_that_is_going_on(ledger: Ledger):
    job = register(ledger, *[f"/{i}" for i in range(10)])
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, {f"/{i}": str(i) for i in range(10)})
    assert job_counts(ledger, job.job_id).processed == 0
    record_progress(ledger, batch, processed=4, run_id="run")
    assert job_counts(ledger, job.job_id).processed == 4
    embed(ledger, batch, rows, failing={"/3": ReasonCode.TRUNCATED})
    counts = job_counts(ledger, job.job_id)
    assert (counts.processed, counts.failed, counts.pending) == (10, 1, 9)


def test_simultaneous_submissions_of_the_same_paths_queue_each_once(ledger: Ledger):
    paths = facts(*[f"/p/{i}" for i in range(500)])
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: register_files(ledger, paths, submission=Submission("api")), range(8)))
    assert sum(job.new_images_count for job in done) == 500
    assert balance(ledger).files["registered"] == 500


def test_an_empty_submission_is_a_completed_job(ledger: Ledger):
    job = register(ledger)
    assert job_counts(ledger, job.job_id).completed_at is not None


def test_an_unknown_job_is_named_in_the_error(ledger: Ledger):
    with pytest.raises(NotFoundError, match="idx_nope"):
        job_counts(ledger, "idx_nope")
