"""What waits in each lane and since when, and the counts that only grow."""

from sqlalchemy import update

from clip_pipeline.ledger.analysis_queue import complete, mark_delivered
from clip_pipeline.ledger.cancellation import cancel_job
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.publishing import outstanding
from clip_pipeline.ledger.queues import Lane, Queue, closed_jobs_by_outcome, processed_by_batch, queues
from clip_pipeline.ledger.schema import analysis_requests, batches, jobs
from clip_pipeline.ledger.whereabouts import remove_paths
from clip_pipeline_tests.ledger.analyses import done, submit, take
from clip_pipeline_tests.ledger.steps import embed, inspect, merge, plan, register

EMPTY = dict.fromkeys(Lane, Queue(0, None))
EARLY, LATER = "2026-01-01T00:00:00.000Z", "2026-01-02T00:00:00.000Z"
CONTENTS = {f"/{n}": str(n) for n in range(5)}


def index_all(ledger: Ledger) -> None:
    register(ledger, *CONTENTS)
    (batch,) = plan(ledger)
    embed(ledger, batch, inspect(ledger, batch, CONTENTS, digest="m"))
    merge(ledger)


def items(ledger: Ledger) -> dict[Lane, int]:
    """How much waits, empty lanes left out."""
    return {lane: queue.items for lane, queue in queues(ledger).items() if queue.items}


def test_nothing_waits_in_a_new_ledger_and_when_all_is_done(ledger: Ledger):
    assert queues(ledger) == EMPTY
    index_all(ledger)
    assert queues(ledger) == EMPTY


def test_bulk_work_waits_in_one_lane_after_the_other(ledger: Ledger):
    register(ledger, *CONTENTS)
    assert items(ledger) == {Lane.INSPECTION: 5}
    (batch,) = plan(ledger)
    assert items(ledger) == {Lane.INSPECTION: 5}
    rows = inspect(ledger, batch, CONTENTS)
    assert items(ledger) == {Lane.EMBEDDING: 5}
    embed(ledger, batch, rows)
    assert items(ledger) == {Lane.MERGE: 5}
    merge(ledger)
    assert items(ledger) == {}


def test_a_job_waits_since_it_came_and_a_batch_since_it_was_planned(ledger: Ledger):
    register(ledger, "/a")
    with ledger.write() as connection:
        connection.execute(update(jobs).values(created_at=EARLY))
    assert queues(ledger)[Lane.INSPECTION] == Queue(1, EARLY)
    (batch,) = plan(ledger)
    with ledger.write() as connection:
        connection.execute(update(batches).values(created_at=LATER, updated_at=LATER))
    assert queues(ledger)[Lane.INSPECTION] == Queue(1, LATER)
    rows = inspect(ledger, batch, {"/a": "1"})
    assert queues(ledger)[Lane.EMBEDDING] == Queue(1, LATER)
    embed(ledger, batch, rows)
    with ledger.write() as connection:
        connection.execute(update(batches).values(updated_at=EARLY))
    assert queues(ledger)[Lane.MERGE] == Queue(1, EARLY)


def test_the_oldest_of_several_counts(ledger: Ledger):
    for path in ("/a", "/b"):
        register(ledger, path)
        plan(ledger)
    with ledger.write() as connection:
        connection.execute(update(batches).where(batches.c.number == 1).values(created_at=LATER))
        connection.execute(update(batches).where(batches.c.number == 2).values(created_at=EARLY))
    assert queues(ledger)[Lane.INSPECTION] == Queue(2, EARLY)


def test_an_upload_waits_until_it_is_claimed_and_the_result_of_one_from_kafka_until_it_is_told(ledger: Ledger):
    submit(ledger, 2, source="kafka")
    submit(ledger, 1)
    with ledger.write() as connection:
        connection.execute(update(analysis_requests).values(submitted_at=EARLY))
    assert queues(ledger)[Lane.ANALYSIS] == Queue(3, EARLY)
    claimed = [one.seq for one in take(ledger)]
    assert queues(ledger) == EMPTY
    complete(ledger, "run", [done(seq) for seq in claimed])
    with ledger.write() as connection:
        connection.execute(update(analysis_requests).values(completed_at=LATER))
    assert queues(ledger)[Lane.KAFKA_RESULTS] == Queue(2, LATER)
    mark_delivered(ledger, claimed)
    assert queues(ledger) == EMPTY


def test_jobs_that_are_over_are_counted_by_their_outcome(ledger: Ledger):
    assert closed_jobs_by_outcome(ledger) == (0, 0)
    index_all(ledger)
    canceled = register(ledger, "/later").job_id
    register(ledger, "/open")
    cancel_job(ledger, canceled)
    assert closed_jobs_by_outcome(ledger) == (1, 1)


def test_each_batch_has_behind_it_what_was_embedded_and_what_its_run_reports(ledger: Ledger):
    register(ledger, "/a", "/b")
    first, second = plan(ledger, batch_size=1)
    record_progress(ledger, second, processed=1, run_id="r")
    assert processed_by_batch(ledger) == {first.number: 0, second.number: 1}


def test_an_image_that_the_release_still_shows_waits_for_the_merge_that_drops_it(ledger: Ledger):
    index_all(ledger)
    remove_paths(ledger, ["/1", "/2"])
    assert items(ledger) == {Lane.MERGE: 2}
    assert outstanding(ledger).leaving == 2
