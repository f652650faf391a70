"""The documents of the wire contract, field by field, at every stage of an index's life."""

import pytest

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.jobs import give_up_batch
from clip_pipeline.serving.documents import overall_status_document, stats_document, status_document
from clip_pipeline.serving.orchestrator import Orchestrator, local_orchestrator
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.serving.world import free_port

THREE = {"/photos/a.jpg": "a red thing", "/photos/b.jpg": "a blue thing", "/photos/copy of a.jpg": "a red thing"}


@pytest.fixture
def orchestrator(world):
    opened = local_orchestrator(world.settings)
    yield opened
    opened.close()


def test_an_empty_home_has_zeros_and_nulls(world, orchestrator):
    assert stats_document(world.ledger, world.store) == {
        "model_name": None, "embedding_dim": None, "total_images": 0, "num_failed": 0, "last_updated": None,
        "index_size_mb": 0.0, "index_release": None, "fingerprint": None,
    }  # fmt: skip
    assert overall_status_document(world.ledger, world.store, orchestrator) == {
        "total_indexed_images": 0, "active_jobs": 0, "active_job_details": [], "recent_jobs": [],
        "index_stats": {"model_name": None, "total_images": 0},
    }  # fmt: skip


def test_a_pinned_home_without_a_release_names_the_model(world):
    world.pin()
    document = stats_document(world.ledger, world.store)
    assert (document["model_name"], document["embedding_dim"], document["index_size_mb"]) == ("hash-64", 64, 0.0)


def test_stats_count_images_failures_and_bytes(world):
    world.index(THREE)
    world.register("/photos/gone.jpg")
    world.embed({})
    document = stats_document(world.ledger, world.store)
    folder = world.store.release_dir(world.spec.key, 1)
    size_mb = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    assert document == {
        "model_name": "hash-64", "embedding_dim": 64, "total_images": 2, "num_failed": 1,
        "last_updated": "2025-01-02T03:04:05Z", "index_size_mb": pytest.approx(size_mb, abs=0.001),
        "index_release": "0000001", "fingerprint": world.spec.fingerprint,
    }  # fmt: skip
    assert size_mb > 0.001


def test_a_job_goes_from_queued_to_completed(world, dagster, orchestrator):
    world.pin()
    job_id = world.register(*THREE).job_id
    queued = status_document(world.ledger, orchestrator, job_id)
    assert (queued["status"], queued["progress"]["percent_complete"]) == ("queued", 0.0)
    assert (queued["started_at"], queued["completed_at"], queued["eta_seconds"]) == (None, None, None)

    dagster.add_run(job_id, "r1", "STARTED", start=1_700_000_000.0)
    world.embed(THREE)
    running = status_document(world.ledger, orchestrator, job_id)
    assert running["status"] == "running"
    assert running["progress"] == {
        "total_images": 3, "processed_images": 3, "failed_images": 0, "percent_complete": 100.0,
    }  # fmt: skip
    assert running["started_at"] == "2023-11-14T22:13:20.000Z"
    assert running["runs"] == [
        {"run_id": "r1", "status": "STARTED", "job_name": "embed", "started_at": "2023-11-14T22:13:20.000Z",
         "ended_at": None, "url": f"http://127.0.0.1:{dagster.port}/runs/r1"}
    ]  # fmt: skip

    world.publish()
    completed = status_document(world.ledger, orchestrator, job_id)
    assert completed["status"] == "completed"
    assert str(completed["completed_at"]).endswith("Z")
    assert (completed["error_message"], completed["eta_seconds"], completed["failed"]) == (None, None, [])


def test_failed_images_are_listed_with_their_reasons(world, orchestrator):
    world.pin()
    job_id = world.register("/photos/a.jpg", "/photos/gone.jpg", "/photos/huge.jpg").job_id
    contents = {"/photos/a.jpg": "a red thing", "/photos/huge.jpg": "a huge thing"}
    world.embed(contents, failing={"/photos/huge.jpg": ReasonCode.OUT_OF_MEMORY})
    world.publish()
    document = status_document(world.ledger, orchestrator, job_id)
    assert document["status"] == "completed"
    assert document["progress"]["failed_images"] == 2
    assert document["failed"] == [
        {"path": "/photos/gone.jpg", "reason": "missing: /photos/gone.jpg"},
        {"path": "/photos/huge.jpg", "reason": "out-of-memory"},
    ]


def test_work_given_up_is_a_failed_job_that_says_why(world, orchestrator):
    job_id = world.register("/photos/a.jpg").job_id
    (batch,) = steps.plan(world.ledger)
    give_up_batch(world.ledger, batch.number, error="run r9: disk full")
    document = status_document(world.ledger, orchestrator, job_id)
    assert (document["status"], document["error_message"]) == ("failed", "run r9: disk full")
    overall = overall_status_document(world.ledger, world.store, orchestrator)
    assert overall["active_jobs"] == 0
    assert [job["status"] for job in overall["recent_jobs"]] == ["failed"]


def test_without_dagster_the_ledger_answers_alone(world):
    done = world.index(THREE)
    waiting = world.register("/photos/new.jpg").job_id
    orchestrator = Orchestrator(f"http://127.0.0.1:{free_port()}")
    assert status_document(world.ledger, orchestrator, done)["status"] == "completed"
    assert status_document(world.ledger, orchestrator, waiting)["runs"] == []
    overall = overall_status_document(world.ledger, world.store, orchestrator)
    assert [job["job_id"] for job in overall["active_job_details"]] == [waiting]
    orchestrator.close()


def test_the_overall_status_counts_open_jobs_and_lists_recent_ones(world, dagster, orchestrator):
    done = world.index(THREE)
    running = world.register("/photos/c.jpg").job_id
    dagster.add_run(running, "r1", "STARTED")
    document = overall_status_document(world.ledger, world.store, orchestrator)
    created = {job["job_id"]: job.pop("created_at") for job in document["recent_jobs"]}
    assert document == {
        "total_indexed_images": 2,
        "active_jobs": 1,
        "active_job_details": [{"job_id": running, "status": "running", "created_at": created[running]}],
        "recent_jobs": [
            {"job_id": running, "status": "running", "images": 1},
            {"job_id": done, "status": "completed", "images": 3},
        ],
        "index_stats": {"model_name": "hash-64", "total_images": 2},
    }


def test_an_unknown_job_is_not_found(world, orchestrator):
    with pytest.raises(NotFoundError, match="no job 'idx_nope'"):
        status_document(world.ledger, orchestrator, "idx_nope")
