"""Random histories: whatever happens in whatever order, totals balance, and in the end everything has an end."""

import random

import pytest
from sqlalchemy import select

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.cancellation import cancel_job
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.inspection_results import _manifest_rows, files_of_batch
from clip_pipeline.ledger.jobs import job_counts, of_job, open_jobs
from clip_pipeline.ledger.lookup import images_by_id
from clip_pipeline.ledger.planning import batch_keys, batches_to_embed, batches_to_inspect, plan_batches
from clip_pipeline.ledger.publishing import live_vectors, outstanding
from clip_pipeline.ledger.removal import delete_files
from clip_pipeline.ledger.schema import files, job_files, jobs
from clip_pipeline_tests.ledger.steps import UNREADABLE, embed, inspect, merge, register
from clip_pipeline_tests.ledgers import POSTGRES

PATHS = [f"/p/{i}" for i in range(12)]
CONTENTS = ["red", "green", "blue", "grey", UNREADABLE]


class History:
    """A folder that changes under a ledger that works, forgets nothing, and is checked after every step."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger, self.random = ledger, random.Random(seed)
        self.folder: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.releases = 0

    def step(self) -> None:
        action = self.random.choice([self.write, self.write, self.remove, self.plan, self.inspect, self.embed,
                                     self.merge, self.inspect_again, self.cancel])  # fmt: skip
        action()
        assert balance(self.ledger).faults == {}, action.__name__
        self.check_files_of_jobs()

    def check_files_of_jobs(self) -> None:
        """However `of_job` finds the files of a job, they are those that `job_files` lists."""
        with self.ledger.read() as connection:
            listed: dict[str, set[int]] = {
                job_id: set() for job_id in connection.execute(select(jobs.c.job_id)).scalars()
            }
            for job_id, file_id in connection.execute(select(job_files.c.job_id, job_files.c.file_id)).tuples():
                listed[job_id].add(file_id)
            for job_id, file_ids in listed.items():
                assert set(connection.execute(of_job(connection, job_id, files.c.file_id)).scalars()) == file_ids

    def write(self) -> None:
        for path in self.random.sample(PATHS, self.random.randint(1, 4)):
            self.folder[path] = self.random.choice(CONTENTS)
            self.versions[path] = self.versions.get(path, 0) + 1
            register(self.ledger, path, version=self.versions[path])

    def remove(self) -> None:
        path = self.random.choice(PATHS)
        if self.folder.pop(path, None) is not None:
            with self.ledger.write() as connection:
                delete_files(connection, [self.file_id(path)])

    def file_id(self, path: str) -> int:
        with self.ledger.read() as connection:
            return connection.execute(select(files.c.file_id).where(files.c.path == path)).scalar_one()

    def plan(self) -> None:
        plan_batches(self.ledger, batch_size=4, most=100)

    def inspect(self) -> None:
        for work in batches_to_inspect(self.ledger, most=self.random.randint(1, 3)):
            inspect(self.ledger, work.key, self.folder, run_id=str(self.random.random()))

    def cancel(self) -> None:
        waiting = open_jobs(self.ledger)
        if waiting:
            job = self.random.choice(waiting)
            cancel_job(self.ledger, job.job_id)
            # What this job alone waited for is out of work, and its paths may be submitted anew.
            counts = job_counts(self.ledger, job.job_id)
            assert (counts.pending, counts.canceled_at is not None) == (0, True)
            assert counts.failed <= counts.processed <= counts.total

    def inspect_again(self) -> None:
        sealed = [key for key in batch_keys(self.ledger) if files_of_batch(self.ledger, key)]
        if sealed:
            inspect(self.ledger, self.random.choice(sealed), self.folder, run_id=str(self.random.random()))

    def embed(self, *, lucky: bool = False) -> None:
        for work in batches_to_embed(self.ledger, most=2 if not lucky else 1000):
            with self.ledger.read() as connection:
                rows = _manifest_rows(connection, work.key)
            failing = {row.path: ReasonCode.MISSING for row in rows if row.path not in self.folder}
            for row in rows:
                if not lucky and self.random.random() < 0.2:
                    failing[row.path] = self.random.choice([ReasonCode.CORRUPT, ReasonCode.CHANGED])
            embed(self.ledger, work.key, rows, failing=failing)

    def merge(self) -> None:
        self.releases += 1
        merge(self.ledger, number=self.releases)

    def finish(self) -> None:
        for _ in range(30):
            if outstanding(self.ledger).is_empty and not open_jobs(self.ledger):
                return
            self.plan()
            for work in batches_to_inspect(self.ledger, most=1000):
                inspect(self.ledger, work.key, self.folder, run_id=str(self.random.random()))
            self.embed(lucky=True)
            self.merge()


@pytest.mark.parametrize("seed", range(12))
def test_every_history_balances_and_comes_to_an_end(
    ledger: Ledger, ledger_database: str, seed: int, request: pytest.FixtureRequest
):
    if ledger_database == POSTGRES and seed % 4 and not request.config.getoption("--ledger"):
        pytest.skip("three seeds of twelve, since each takes a server seconds; all of them with --ledger postgres")
    history = History(ledger, seed)
    for _ in range(50):
        history.step()
    history.finish()
    found = balance(ledger)
    assert found.faults == {}
    assert found.files["registered"] == found.files["manifested"] == found.files["embedded"] == 0
    assert outstanding(ledger).is_empty
    assert open_jobs(ledger) == []
    hits = images_by_id(ledger, live_vectors(ledger)[0].tolist())
    shown = {path for hit in hits.values() for path in (hit.path, *hit.duplicates)}
    assert shown <= set(history.folder)
    assert len(hits) == found.images["indexed"]
