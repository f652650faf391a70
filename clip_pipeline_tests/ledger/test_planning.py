"""Planning: how waiting jobs become batches."""

import pytest

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.planning import (
    MAX_JOBS_PER_BATCH,
    WaitingJob,
    batch_keys,
    batches_to_embed,
    batches_to_inspect,
    divide_into_batches,
)
from clip_pipeline_tests.ledger.steps import embed, inspect, plan, register


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1], [1]),
        ([3, 4], [7]),
        ([250], [84, 83, 83]),
        ([5, 100, 6], [100, 11]),
        ([9] * 12, [99, 9]),
    ],
)
def test_large_jobs_get_their_own_batches_and_small_ones_share(sizes: list[int], expected: list[int]):
    waiting = [WaitingJob(f"j{i}", 0, n) for i, n in enumerate(sizes)]
    planned = divide_into_batches(waiting, batch_size=100, most=1000)
    assert [batch.files for batch in planned] == expected
    assert sum(batch.files for batch in planned) == sum(sizes)


def test_jobs_of_different_priority_never_share_a_batch():
    planned = divide_into_batches([WaitingJob("a", 5, 1), WaitingJob("b", 0, 1)], batch_size=100, most=10)
    assert [(batch.priority, batch.parts) for batch in planned] == [(5, (("a", 1),)), (0, (("b", 1),))]


def test_a_batch_serves_a_bounded_number_of_jobs():
    waiting = [WaitingJob(f"j{i}", 0, 1) for i in range(MAX_JOBS_PER_BATCH + 1)]
    planned = divide_into_batches(waiting, batch_size=10_000, most=10)
    assert [len(batch.parts) for batch in planned] == [MAX_JOBS_PER_BATCH, 1]


def test_urgent_jobs_are_planned_and_listed_first(ledger: Ledger):
    register(ledger, "/slow", priority=0)
    urgent = register(ledger, "/urgent", priority=9)
    plan(ledger)
    work = batches_to_inspect(ledger, most=10)
    assert work[0].job_ids == (urgent.job_id,)
    assert [w.priority for w in work] == [9, 0]


def test_planning_again_plans_nothing_twice(ledger: Ledger):
    register(ledger, "/a", "/b")
    assert len(plan(ledger)) == 1
    assert plan(ledger) == []
    assert len(batch_keys(ledger)) == 1


def test_a_batch_awaits_inspection_then_embedding_then_nothing(ledger: Ledger):
    register(ledger, "/a")
    (batch,) = plan(ledger)
    assert [w.key for w in batches_to_inspect(ledger, most=10)] == [batch]
    rows = inspect(ledger, batch, {"/a": "1"}, digest="m", run_id="run-7")
    assert batches_to_inspect(ledger, most=10) == []
    (work,) = batches_to_embed(ledger, most=10)
    assert (work.key, work.manifest_run_id) == (batch, "run-7")
    embed(ledger, batch, rows)
    assert batches_to_embed(ledger, most=10) == []


def test_a_batch_without_images_needs_no_embedding(ledger: Ledger):
    register(ledger, "/gone")
    (batch,) = plan(ledger)
    inspect(ledger, batch, {})
    assert batches_to_embed(ledger, most=10) == []


def test_a_job_of_two_batches_is_named_by_both(ledger: Ledger):
    job = register(ledger, *[f"/{i}" for i in range(15)])
    plan(ledger, batch_size=10)
    assert [w.job_ids for w in batches_to_inspect(ledger, most=10)] == [(job.job_id,), (job.job_id,)]
