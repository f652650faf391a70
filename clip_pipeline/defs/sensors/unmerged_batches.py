"""Unmerged batches: when sealed embeddings or removals are not in the published release, a merge is requested."""

import hashlib
from collections.abc import Sequence

import dagster as dg

from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.defs.jobs import MERGE_JOB
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.defs.sensors.requests import as_sensor_result, request_work
from clip_pipeline.defs.work import Work, has_unfinished_run
from clip_pipeline.ledger.jobs import give_up_batch, open_job_ids
from clip_pipeline.ledger.planning import MAX_JOBS_PER_BATCH
from clip_pipeline.ledger.publishing import Outstanding, outstanding, recorded_release


@dg.sensor(
    job_name=MERGE_JOB,
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests merged_index when the published release lacks embeddings or still shows removed images.",
)
def unmerged_batches(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """One merge at a time; what lands while it works is seen by the next tick."""
    ledger = pipeline.ledger()
    pinned = pinned_encoder(pipeline.store())
    due = outstanding(ledger)
    if due.is_empty or pinned is None:
        return dg.SensorResult(skip_reason="the published release is up to date")
    if has_unfinished_run(context.instance, MERGE_JOB):
        return dg.SensorResult(skip_reason=f"a merge is under way; outstanding: {describe(due)}")

    def give_up(_work: Work, why: str) -> None:
        for batch in due.batches:
            give_up_batch(ledger, batch.number, error=why)

    job_ids = open_job_ids(ledger, most=MAX_JOBS_PER_BATCH)
    work = merge_of(due, after_release=recorded_release(ledger, pinned.key), job_ids=job_ids)
    return as_sensor_result(request_work(context.instance, [work], give_up=give_up), noun=f"merges ({describe(due)})")


def merge_of(due: Outstanding, *, after_release: int | None, job_ids: Sequence[str]) -> Work:
    """The work of merging: named after all that is outstanding, so that the same state is asked for once."""
    state = f"{after_release}|{due.embedded}|{due.leaving}|" + ",".join(f"{k}={v}" for k, v in due.batches.items())
    return Work(f"merge:{hashlib.sha256(state.encode()).hexdigest()[:16]}", None, 1, job_ids)


def describe(due: Outstanding) -> str:
    """Counts of what the next merge brings, for people."""
    return f"{len(due.batches)} batches, {due.embedded} images to show, {due.leaving} to remove"
