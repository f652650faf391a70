"""Which runs end with a canceled job: those whose batches nobody else waits for, all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_pipeline.ledger.cancellation import cancel_job
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.serving.cancellation import runs_to_end
from clip_pipeline.serving.orchestrator import RunInfo
from clip_pipeline_tests.ledger.steps import inspect, plan, register


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite3")
    yield opened
    opened.close()


def embedding(run_id: str, *batches: str) -> RunInfo:
    work = " ".join(f"embed:{batch}:some-manifest-run" for batch in batches)
    return RunInfo(run_id, "STARTED", "embed_images", work, 0.0, 0.0, None)


def a_job(ledger: Ledger, name: str) -> tuple[str, str]:
    """A job of one image with a batch of its own, manifest sealed; its id and the batch."""
    contents = {f"/photos/{name}.png": name}
    job_id = register(ledger, *contents).job_id
    (batch,) = plan(ledger)
    inspect(ledger, batch, contents)
    return str(job_id), str(batch)


def test_a_run_that_two_jobs_share_goes_on_until_nobody_waits_for_any_of_its_batches(ledger: Ledger):
    (one, first), (other, second) = a_job(ledger, "a"), a_job(ledger, "b")
    runs = [embedding("alone", first), embedding("shared", first, second)]
    assert runs_to_end(ledger, runs) == []
    cancel_job(ledger, one)
    assert runs_to_end(ledger, runs) == [runs[0]]
    cancel_job(ledger, other)
    assert runs_to_end(ledger, runs) == runs


@pytest.mark.parametrize("work", ["merge:12", "run-id", "embed:", "embed:x:y", "embed:b0000001:r merge:12"])
def test_a_run_of_any_other_work_is_never_ended(ledger: Ledger, work: str):
    job_id, _ = a_job(ledger, "a")
    cancel_job(ledger, job_id)
    assert runs_to_end(ledger, [RunInfo("r", "STARTED", "any", work, 0.0, 0.0, None)]) == []
