"""Sealed manifests: a batch whose manifest was sealed, or sealed anew, gets its embedding run."""

from collections.abc import Sequence

import dagster as dg

from clip_pipeline.defs.assets.embeddings import KEY
from clip_pipeline.defs.fleet_slots import fit_pool
from clip_pipeline.defs.jobs import EMBED_JOB
from clip_pipeline.defs.packs import WaitingBatch, divide_into_packs, due_packs, most_images_of_a_pack
from clip_pipeline.defs.partitions import image_batches
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.defs.sensors.requests import MAX_REQUESTS_PER_TICK, request_batches
from clip_pipeline.defs.work import Work, unfinished_priorities
from clip_pipeline.ledger.planning import BatchWork, batches_to_embed

POOL = "gpu"
"""The pool of `image_embeddings`."""


@dg.sensor(
    job_name=EMBED_JOB,
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests image_embeddings for every batch whose sealed manifest is not embedded yet.",
)
def sealed_manifests(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """Request what embeddings are missing, batches that are neighbours in one run, spread over the workers."""
    ledger, instance = pipeline.ledger(), context.instance
    slots = fit_pool(instance, POOL)
    waiting = batches_to_embed(ledger, most=MAX_REQUESTS_PER_TICK)
    images = {str(batch.key): batch.images for batch in waiting}

    def pack(fresh: Sequence[Work]) -> list[list[Work]]:
        if not fresh:
            return []
        order = {key: n for n, key in enumerate(instance.get_dynamic_partitions(str(image_batches.name)))}
        known = [work for work in fresh if work.partition_key in order]
        found = [WaitingBatch(w, order[str(w.partition_key)], images[str(w.partition_key)]) for w in known]
        most = most_images_of_a_pack(pipeline.settings().batch_size, images_per_s=latest_rate(instance))
        packs = divide_into_packs(found, slots=slots, most_images=most)
        return due_packs(packs, unfinished=unfinished_priorities(instance, EMBED_JOB), slots=slots)

    work = [embedding_of(batch) for batch in waiting]
    return request_batches(instance, ledger, work, noun="batches to embed", pack=pack)


def latest_rate(instance: dg.DagsterInstance) -> float:
    """Images a second of the batch that was embedded last, 0 where there is none."""
    event = instance.get_latest_materialization_event(KEY)
    made = event.asset_materialization if event is not None else None
    rate = made.metadata.get("images_per_s") if made is not None else None
    return float(rate.value) if isinstance(rate, dg.FloatMetadataValue | dg.IntMetadataValue) and rate.value else 0.0


def embedding_of(batch: BatchWork) -> Work:
    """The work of embedding a batch: once for each time its manifest is sealed."""
    return Work(f"embed:{batch.key}:{batch.manifest_run_id}", str(batch.key), batch.priority, batch.job_ids)
