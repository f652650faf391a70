"""The maintenance jobs in Dagster: partitions follow the ledger, materializations say where a batch came from."""

from typing import Any

import dagster as dg
import pytest

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs.maintenance.jobs import MAINTENANCE_JOBS, MAINTENANCE_SCHEDULES
from clip_pipeline.defs.maintenance.partitions import EMBEDDINGS, MANIFESTS, busy_batches
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.sealed_manifests import sealed_manifests
from clip_pipeline.defs.sensors.submissions import submissions
from clip_pipeline.defs.sensors.unmerged_batches import unmerged_batches
from clip_pipeline.ledger.balance import balance
from clip_pipeline_tests.defs.pipeline import Pipeline, pipeline
from clip_pipeline_tests.defs.test_assets import write_images

__all__ = ["pipeline"]
JOBS = {job.name: job for job in MAINTENANCE_JOBS}
BATCHES = 2


def run(made: Pipeline, name: str, **options) -> dict[str, Any]:
    """Execute one maintenance job; returns what its step reported."""
    resources = {"pipeline": PipelineResource()}
    done = JOBS[name].execute_in_process(instance=made.instance, resources=resources, **options)
    assert done.success
    (step,) = [event for event in done.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT]
    return {name: value.value for name, value in step.step_output_data.metadata.items()}


def partitions(made: Pipeline) -> list[str]:
    return list(made.instance.get_dynamic_partitions("image_batches"))


@pytest.fixture
def many(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """Two indexed batches of one picture each, and settings that would have them compacted."""
    monkeypatch.setenv("CLIP_PIPELINE_BATCH_SIZE", "1")
    write_images(pipeline.folder, *(f"{number}.png" for number in range(BATCHES)))
    pipeline.settle()
    assert len(partitions(pipeline)) == BATCHES
    monkeypatch.setenv("CLIP_PIPELINE_BATCH_SIZE", "3")
    monkeypatch.setenv("CLIP_PIPELINE_MAINTENANCE_AFTER_HOURS", "0")
    return pipeline


def test_the_jobs_run_by_themselves_each_on_its_schedule():
    assert set(JOBS) == {"compact_batches", "compact_index", "sweep_orphans", "tend_ledger"}
    assert {schedule.job_name for schedule in MAINTENANCE_SCHEDULES} == set(JOBS)
    assert all(s.default_status is dg.DefaultScheduleStatus.RUNNING for s in MAINTENANCE_SCHEDULES)


def test_compaction_replaces_partitions_shows_their_origin_and_asks_only_for_a_merge(many: Pipeline):
    old = [str(BatchKey(number)) for number in range(1, BATCHES + 1)]
    told = run(many, "compact_batches")
    (new,) = partitions(many)
    assert new not in old
    assert (told["batches_made"], told["batches_compacted"], told["images"]) == (1, BATCHES, BATCHES)
    assert (told["partitions_deleted"], told["materializations_shown"]) == (BATCHES, 2)
    for asset in (MANIFESTS, EMBEDDINGS):
        records = many.instance.fetch_materializations(dg.AssetRecordsFilter(asset, asset_partitions=[new]), limit=5)
        (record,) = records.records
        assert record.asset_materialization
        assert record.asset_materialization.metadata["compacted_from"].value == old
    assert not many.tick(submissions).run_requests
    assert not many.tick(sealed_manifests).run_requests
    (merge,) = many.tick_and_run(unmerged_batches, "merge_index")
    assert merge.success
    assert sorted(many.reader().live_ids().tolist()) == list(range(1, BATCHES + 1))
    many.settle()
    assert balance(many.ledger).images["indexed"] == BATCHES
    assert run(many, "compact_batches")["materializations_shown"] == 0


def test_a_compacted_batch_can_be_made_anew_and_those_it_was_made_of_can_not(many: Pipeline):
    run(many, "compact_batches")
    many.settle()
    (new,) = partitions(many)
    many.instance.add_dynamic_partitions("image_batches", ["b0000001"])  # a tick that began before the compaction
    for job, asset in (("inspect_images", "image_manifest"), ("embed_images", "image_embeddings")):
        assert many.run(job, dg.RunRequest(partition_key=new)).asset_materializations_for_node(asset)
        outdated = many.run(job, dg.RunRequest(partition_key="b0000001"))
        assert outdated.success
        assert not outdated.asset_materializations_for_node(asset)
    assert many.metadata("image_embeddings")["images"] == BATCHES
    many.settle()
    assert balance(many.ledger).images["indexed"] == BATCHES
    assert balance(many.ledger).holds
    assert run(many, "compact_batches")["partitions_deleted"] == 1
    assert partitions(many) == [new]


def test_busy_batches_are_left_alone_and_a_dagster_that_knows_nothing_is_shown_what_there_is(many: Pipeline, tmp_path):
    """A Dagster that knows nothing is that of a restored home."""
    job = many.definitions().resolve_job_def("embed_images")
    many.instance.create_run_for_job(job, tags={"dagster/partition": "b0000007"})
    in_range = {"dagster/asset_partition_range_start": "b0000001", "dagster/asset_partition_range_end": "b0000002"}
    many.instance.create_run_for_job(job, tags=in_range)
    assert busy_batches(many.instance) == {BatchKey(n) for n in (1, 2, 7)}
    assert run(many, "compact_batches")["batches_made"] == 0
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "other")) as instance:
        many.instance = instance
        told = run(many, "compact_batches")
        assert (told["batches_made"], told["materializations_shown"]) == (1, 2)
        assert len(partitions(many)) == 1
        assert instance.get_materialized_partitions(EMBEDDINGS) == set(partitions(many))


def test_the_other_jobs_report_what_they_found(many: Pipeline, monkeypatch: pytest.MonkeyPatch):
    assert run(many, "compact_index") == {"worn_segments": 0, "published": False}
    swept = run(many, "sweep_orphans")
    assert (swept["orphans"], swept["megabytes"]) == (0, 0.0)
    tended = run(many, "tend_ledger")
    assert tended["database"] in {"sqlite", "postgresql"}
    assert tended["vacuum_is_due"] is False
    write_images(many.folder, "late.png")
    many.settle()
    monkeypatch.setattr("clip_pipeline.index.compact.MAX_SEGMENTS", 0)
    told = run(many, "compact_index")
    assert told["published"] is True
    assert told["worn_segments"] > told["segments"] == 1
    assert len(many.reader().live_ids()) == BATCHES + 1
