"""Asset `image_manifest`: the sealed list of a batch's images."""

from collections.abc import Iterator

import dagster as dg

from clip_pipeline.core.isolation import available_cores
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs.logs import log_for_batch
from clip_pipeline.defs.metadata import describe_manifest
from clip_pipeline.defs.partitions import batch_asset, partitions_to_make
from clip_pipeline.defs.priority import give_way
from clip_pipeline.defs.progress import observe_progress
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.ledger.manifesting import SealedManifest, seal_manifest

KEY = dg.AssetKey("image_manifest")


@batch_asset(
    key=KEY,
    group_name="images",
    kinds={"parquet"},
    pool="inspect",
)
def image_manifest(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> Iterator[dg.Output[None]]:
    """The distinct images of a batch: path, SHA-256, size, format, width, height, orientation; one row an image.

    Every file is read once. What cannot be an image fails with its reason; exact duplicates are linked.
    """
    give_way()
    for partition_key in partitions_to_make(context, pipeline.ledger()):
        with log_for_batch(partition_key):
            _make(context, pipeline, BatchKey.parse(partition_key))
    yield from ()


def _make(context: dg.AssetExecutionContext, pipeline: PipelineResource, batch: BatchKey) -> None:
    sealed = _seal(context, pipeline, batch)
    context.log_event(
        dg.AssetMaterialization(
            KEY,
            partition=str(batch),
            metadata=describe_manifest(sealed),
            tags={"dagster/data_version": sealed.manifest.digest[:32]},
        )
    )


def _seal(context: dg.AssetExecutionContext, pipeline: PipelineResource, batch: BatchKey) -> SealedManifest:
    settings = pipeline.settings()
    return seal_manifest(
        pipeline.ledger(),
        pipeline.store(),
        batch,
        limits=settings.image_limits,
        workers=settings.decode_workers or available_cores(),
        run_id=context.run.run_id,
        on_progress=observe_progress(context, KEY, batch, noun="inspected"),
    )
