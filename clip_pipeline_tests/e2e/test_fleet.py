"""Two real workers on this machine, a real daemon, a real webserver: where runs start, and what a death costs."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_pipeline.ledger.planning import batches_to_embed
from clip_pipeline_tests.e2e.fleet import Fleet, open_fleet
from clip_pipeline_tests.e2e.stack import Stack, write_photos

TERMINATE_WITHIN_S = 5.0


@pytest.fixture
def fleet(stack: Stack, tmp_path: Path) -> Iterator[Fleet]:
    yield from open_fleet(stack, tmp_path, workers=2, CLIP_PIPELINE_BATCH_SIZE="80")


def photos(fleet: Fleet, count: int, *, seed: int = 0) -> list[Path]:
    folder = fleet.file.parent / f"photos-{seed}"
    write_photos(folder, count, seed=seed)
    return sorted(folder.iterdir())


def wait_for_both(fleet: Fleet, job_id: str) -> None:
    fleet.stack.wait(lambda: set(fleet.working(job_id)) == set(fleet.addresses), "both workers have a run", 400)


def check_everything(fleet: Fleet, *, images: int) -> None:
    """Every image indexed once, and nothing on disk that differs from what was recorded."""
    found = fleet.stack.balance()
    assert found.holds, found
    assert (found.files["indexed"], found.images["indexed"]) == (images, images)
    verified = fleet.stack.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_job_is_spread_over_both_workers_and_its_runs_end_when_told(fleet: Fleet):
    job_id = fleet.submit(photos(fleet, 400))
    wait_for_both(fleet, job_id)

    ended = next(iter(fleet.working(job_id).values()))
    took_s = fleet.terminate(ended.run_id)
    print(json.dumps({"terminate_s": round(took_s, 2)}))  # noqa: T201  measured, for who runs this by hand
    assert took_s < TERMINATE_WITHIN_S
    assert fleet.status(ended.run_id) == "CANCELED"
    fleet.stack.wait(lambda: len({r.worker for r in fleet.runs(job_id) if r.status == "SUCCESS"}) == 2,
                     "both workers finished a batch", 300)  # fmt: skip
    assert {run.worker for run in fleet.runs(job_id) if run.worker} == set(fleet.addresses)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workers_come_and_go_by_editing_one_file_while_everything_runs(fleet: Fleet):
    first, second = fleet.addresses
    fleet.write_file([])
    job_id = fleet.submit(photos(fleet, 400))
    reason = "Back to the queue: no worker is free for embed_images: the fleet file names none."
    fleet.stack.wait(lambda: reason in fleet.messages(job_id), "a run says why it waits", 400)
    assert fleet.working(job_id) == {}

    fleet.write_file([first])
    fleet.stack.wait(lambda: set(fleet.working(job_id)) == {first}, "the worker that was added has a run", 300)
    fleet.write_file([first, second])
    wait_for_both(fleet, job_id)
    fleet.write_file([second])
    of_first = {run.run_id for run in fleet.runs(job_id) if run.worker == first}
    fleet.wait_complete(job_id)

    runs = fleet.runs(job_id)
    assert {run.status for run in runs} == {"SUCCESS"}
    assert {run.run_id for run in runs if run.worker == first} == of_first
    assert len([run for run in runs if run.worker == second]) > len(of_first)
    assert fleet.messages(job_id).count(reason) <= len(runs)
    check_everything(fleet, images=400)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_jobs_that_waited_together_share_runs_on_both_workers(fleet: Fleet):
    fleet.write_file([])
    jobs: list[str] = []
    for number in range(8):  # each alone: small jobs that wait together share a batch, and this is about runs
        jobs.append(fleet.submit(photos(fleet, 30, seed=number)))
        fleet.stack.wait(
            lambda: len(batches_to_embed(fleet.stack.ledger, most=100)) == len(jobs), "one is inspected", 200
        )
    fleet.write_file(fleet.addresses)
    for job_id in jobs:
        fleet.wait_complete(job_id)

    runs = {run for job_id in jobs for run in fleet.runs(job_id)}
    assert {run.status for run in runs} == {"SUCCESS"}
    assert {run.worker for run in runs} == set(fleet.addresses)
    assert sorted(name for run in runs for name in run.work) == sorted({name for run in runs for name in run.work})
    assert sum(len(run.work) for run in runs) == 8
    assert len(runs) < 8, "no two batches shared a run"
    check_everything(fleet, images=240)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_runs_of_a_worker_that_dies_are_retried_on_the_one_that_is_left(fleet: Fleet):
    job_id = fleet.submit(photos(fleet, 240))
    wait_for_both(fleet, job_id)
    dead, survivor = fleet.addresses
    lost = fleet.working(job_id)[dead]
    fleet.kill_worker(dead)
    fleet.stack.wait(lambda: fleet.status(lost.run_id) == "FAILURE", "the run of the dead worker is failed", 120)
    fleet.wait_complete(job_id)
    retries = [run for run in fleet.runs(job_id) if run.parent == lost.run_id]
    assert [(run.status, run.worker) for run in retries] == [("SUCCESS", survivor)]
    check_everything(fleet, images=240)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_worker_frozen_beyond_the_grace_time_does_no_harm_when_it_thaws(fleet: Fleet):
    job_id = fleet.submit(photos(fleet, 240))
    wait_for_both(fleet, job_id)
    frozen, survivor = fleet.addresses
    lost = fleet.working(job_id)[frozen]
    fleet.signal_worker(frozen, signal.SIGSTOP)
    fleet.stack.wait(lambda: fleet.status(lost.run_id) == "FAILURE", "the run of the frozen worker is failed", 180)

    def retry_works() -> bool:
        return any(run.parent == lost.run_id and run.status == "STARTED" for run in fleet.runs(job_id))

    fleet.stack.wait(retry_works, "its retry works on the survivor", 300)
    fleet.signal_worker(frozen, signal.SIGCONT)
    fleet.wait_complete(job_id)
    assert [run.worker for run in fleet.runs(job_id) if run.parent == lost.run_id] == [survivor]
    fleet.stack.wait(lambda: fleet.run_process(frozen) is None, "the thawed run has ended", 300)
    check_everything(fleet, images=240)
