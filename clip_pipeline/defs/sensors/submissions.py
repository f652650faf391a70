"""Submissions: registered files become batches, batches become partitions, partitions get their manifest run."""

import dagster as dg

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs.jobs import INSPECT_JOB
from clip_pipeline.defs.partitions import image_batches
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.defs.sensors.requests import MAX_REQUESTS_PER_TICK, request_batches
from clip_pipeline.defs.work import Work
from clip_pipeline.ledger.planning import BatchWork, batch_keys, batches_to_inspect, plan_batches

ADD_PARTITIONS_AT_ONCE = 1_000


@dg.sensor(
    job_name=INSPECT_JOB,
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Plans registered files into batches, adds their partitions and requests image_manifest.",
)
def submissions(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """Plan, add what partitions are missing, request what manifests are missing."""
    ledger, settings = pipeline.ledger(), pipeline.settings()
    plan_batches(ledger, batch_size=settings.batch_size, most=MAX_REQUESTS_PER_TICK)
    add_partitions(context.instance, batch_keys(ledger))
    waiting = [inspection_of(batch) for batch in batches_to_inspect(ledger, most=MAX_REQUESTS_PER_TICK)]
    return request_batches(context.instance, ledger, waiting, noun="batches to inspect")


def inspection_of(batch: BatchWork) -> Work:
    """The work of inspecting a batch: once, since a sealed manifest is not asked for again."""
    return Work(f"inspect:{batch.key}", str(batch.key), batch.priority, batch.job_ids)


def add_partitions(instance: dg.DagsterInstance, keys: list[BatchKey]) -> None:
    """Add the partitions that Dagster does not know yet.

    Straight to the instance: a sensor result checks its keys one by one, 3 to 19 ms each.
    """
    known = set(instance.get_dynamic_partitions(str(image_batches.name)))
    missing = [str(key) for key in keys if str(key) not in known]
    for start in range(0, len(missing), ADD_PARTITIONS_AT_ONCE):
        instance.add_dynamic_partitions(str(image_batches.name), missing[start : start + ADD_PARTITIONS_AT_ONCE])
