"""Closed jobs and failed files, a page at a time."""

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.cancellation import cancel_job
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.job_history import JobPosition, closed_jobs, failed_after
from clip_pipeline_tests.ledger.steps import embed, finish, inspect, merge, plan, register


def pages(ledger: Ledger, *, most: int):
    after = None
    while page := closed_jobs(ledger, after=after, most=most):
        yield page
        after = JobPosition(page[-1].created_at, page[-1].job_id)


def test_pages_of_closed_jobs_hold_each_once_newest_first(ledger: Ledger):
    job_ids = [register(ledger, f"/{n}").job_id for n in range(7)]
    finish(ledger, {f"/{n}": str(n) for n in range(7)})
    still_open = register(ledger, "/later").job_id
    found = [line for page in pages(ledger, most=3) for line in page]
    assert sorted(line.job_id for line in found) == sorted(job_ids)
    assert still_open not in job_ids
    moments = [line.created_at for line in found]
    assert moments == sorted(moments, reverse=True)


def test_a_line_says_how_the_job_ended(ledger: Ledger):
    done, dropped = register(ledger, "/a", "/missing").job_id, register(ledger, "/b").job_id
    cancel_job(ledger, dropped)
    finish(ledger, {"/a": "1"})
    lines = {line.job_id: line for line in closed_jobs(ledger)}
    assert (lines[done].is_canceled, lines[done].images_count, lines[done].failed_images) == (False, 2, 1)
    assert (lines[dropped].is_canceled, lines[dropped].images_count) == (True, 1)


def test_pages_of_failed_files_follow_each_other_without_a_gap(ledger: Ledger):
    paths = [f"/{n:02d}" for n in range(5)]
    job_id = register(ledger, *paths, "/fine").job_id
    (batch,) = plan(ledger)
    contents = {path: path for path in (*paths, "/fine")}
    rows = inspect(ledger, batch, contents)
    embed(ledger, batch, rows, failing=dict.fromkeys(paths, ReasonCode.CORRUPT))
    merge(ledger)
    first = failed_after(ledger, job_id, most=3)
    second = failed_after(ledger, job_id, path=first[-1].path, most=3)
    assert [f.path for f in (*first, *second)] == paths
    assert {f.reason for f in first} == {"corrupt"}
    assert failed_after(ledger, job_id, path=second[-1].path) == []
