"""What a look reads again: not every open job for each change of another."""

import contextlib
import time
from itertools import count

import pytest
from sqlalchemy import event

from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.serving.orchestrator import Orchestrator
from clip_pipeline.serving.push.job_look import JobLook
from clip_pipeline_tests.ledger import steps

OPEN_JOBS = 30


@pytest.fixture
def look(world, dagster):
    orchestrator = Orchestrator(f"http://127.0.0.1:{dagster.port}")
    made = JobLook(world.ledger, orchestrator)
    for number in range(OPEN_JOBS):
        world.register(f"/photos/{number}.jpg")
    assert made.changes() == []
    yield made
    orchestrator.close()


@contextlib.contextmanager
def statements(ledger):
    """Counts the statements that are sent to the database."""
    sent = []

    def note(*arguments):
        sent.append(arguments[2])

    event.listen(ledger.engine, "before_cursor_execute", note)
    yield sent
    event.remove(ledger.engine, "before_cursor_execute", note)


def keys(events):
    return [event.key for event in events]


def test_a_job_that_comes_or_goes_is_read_and_the_open_ones_beside_it_are_not(world, look):
    late = world.register("/photos/late.jpg").job_id
    with statements(world.ledger) as sent:
        assert keys(look.changes()) == [late]
    assert len(sent) < OPEN_JOBS
    assert len(look.standing()) == OPEN_JOBS + 1
    with statements(world.ledger) as sent:
        assert look.changes() == []
    assert len(sent) < 10


def test_progress_is_told_of_the_jobs_that_it_is_of_whatever_came_before(world, look):
    late = world.register("/photos/late.jpg").job_id
    look.changes()
    (batch,) = steps.plan(world.ledger)
    rows = steps.inspect(world.ledger, batch, {f"/photos/{n}.jpg": str(n) for n in (1, 2)})
    told = look.changes()
    assert late in keys(told)  # its file is missing
    record_progress(world.ledger, batch, processed=len(rows), run_id="run")
    assert look.changes() != []


def test_open_jobs_are_read_again_in_time_however_many_others_come(world, dagster, monkeypatch):
    """They were not, had every look put off the next thorough one."""
    for number in range(OPEN_JOBS):
        world.register(f"/photos/{number}.jpg")
    monkeypatch.setattr("clip_pipeline.serving.push.job_look.RUNS_EVERY_S", 0.3)
    look = JobLook(world.ledger, Orchestrator(f"http://127.0.0.1:{dagster.port}"))
    look.changes()
    watched = look.standing()[0].key
    dagster.add_run(watched, "run-1", "STARTED", start=1.0)
    deadline, others = time.monotonic() + 30, count()
    while watched not in keys(look.changes()):
        assert time.monotonic() < deadline
        world.register(f"/photos/another_{next(others)}.jpg")
