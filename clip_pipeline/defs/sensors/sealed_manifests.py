"""Sealed manifests: a batch whose manifest was sealed, or sealed anew, gets its embedding run."""

import dagster as dg

from clip_pipeline.defs.jobs import EMBED_JOB
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.defs.sensors.requests import MAX_REQUESTS_PER_TICK, request_batches
from clip_pipeline.defs.work import Work
from clip_pipeline.ledger.planning import BatchWork, batches_to_embed


@dg.sensor(
    job_name=EMBED_JOB,
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests image_embeddings for every batch whose sealed manifest is not embedded yet.",
)
def sealed_manifests(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """Request what embeddings are missing."""
    ledger = pipeline.ledger()
    waiting = [embedding_of(batch) for batch in batches_to_embed(ledger, most=MAX_REQUESTS_PER_TICK)]
    return request_batches(context.instance, ledger, waiting, noun="batches to embed")


def embedding_of(batch: BatchWork) -> Work:
    """The work of embedding a batch: once for each time its manifest is sealed."""
    return Work(f"embed:{batch.key}:{batch.manifest_run_id}", str(batch.key), batch.priority, batch.job_ids)
