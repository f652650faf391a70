"""Asset `image_embeddings`: the sealed vectors of a batch, made on a GPU worker's code location."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from clip_pipeline.core.encoder import Encoder, EncoderSpec
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import Manifest, read_manifest
from clip_pipeline.defs.metadata import describe_quarantine, png_image
from clip_pipeline.defs.partitions import batch_asset
from clip_pipeline.defs.priority import give_way
from clip_pipeline.defs.progress import observe_progress
from clip_pipeline.defs.resources import EncoderResource, PipelineResource
from clip_pipeline.ledger.embedding_results import record_embeddings, record_progress
from clip_pipeline.ledger.planning import manifest_digest

if TYPE_CHECKING:
    from clip_pipeline.embedding.loop import EmbeddingResult
    from clip_pipeline.embedding.ring import PixelRing

KEY = dg.AssetKey("image_embeddings")
ALL_ACCOUNTED = "every_image_accounted"


@batch_asset(
    key=KEY,
    deps=[dg.AssetDep("image_manifest", partition_mapping=dg.IdentityPartitionMapping())],
    group_name="embedding",
    kinds={"pytorch", "numpy"},
    pool="gpu",
    check_specs=[
        dg.AssetCheckSpec(ALL_ACCOUNTED, asset=KEY, description="Each image is embedded or quarantined, once.")
    ],
)
def image_embeddings(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, encoder: EncoderResource
) -> Iterator[dg.AssetCheckResult]:
    """Unit-length CLIP embeddings of a batch's images, float16 [n, d], and the quarantine of those that have none."""
    from clip_pipeline.embedding.ring import PixelRing  # noqa: PLC0415  (torch)

    give_way()
    settings = pipeline.settings()
    loaded = encoder.load(settings)
    unaccounted = 0
    with PixelRing(
        loaded.spec.preprocessing,
        limits=settings.image_limits,
        forward_batch=settings.forward_batch,
        decode_workers=settings.decode_workers,
    ) as ring:
        for partition_key in context.partition_keys:
            manifest, result = _embed(context, pipeline, loaded, ring, batch=BatchKey.parse(partition_key))
            unaccounted += len(manifest.rows) - result.embedded - len(result.quarantined)
            context.log_event(
                dg.AssetMaterialization(
                    KEY,
                    partition=partition_key,
                    metadata=describe_embeddings(result, loaded.spec, manifest=manifest, ring=ring),
                    tags={"dagster/data_version": result.seal.digest[:32]},
                )
            )
    yield dg.AssetCheckResult(
        check_name=ALL_ACCOUNTED, passed=unaccounted == 0, metadata={"unaccounted_images": unaccounted}
    )


def _embed(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    encoder: Encoder,
    ring: "PixelRing",
    *,
    batch: BatchKey,
) -> tuple[Manifest, "EmbeddingResult"]:
    from clip_pipeline.embedding.loop import embed_batch  # noqa: PLC0415  (torch)

    ledger, run_id = pipeline.ledger(), context.run.run_id
    manifest = read_manifest(pipeline.store(), batch, digest=manifest_digest(ledger, batch))
    observe = observe_progress(context, KEY, batch, noun="processed")

    def on_progress(done: int, _failed: int) -> None:
        record_progress(ledger, batch, processed=done, run_id=run_id)
        observe(done, len(manifest.rows))

    result = embed_batch(
        pipeline.store(),
        encoder,
        manifest,
        limits=pipeline.settings().image_limits,
        run_id=run_id,
        on_progress=on_progress,
        ring=ring,
    )
    failed_ids = {q.row.image_id for q in result.quarantined}
    record_embeddings(
        ledger,
        batch,
        embedded=[row.image_id for row in manifest.rows if row.image_id not in failed_ids],
        quarantined=[(q.row.image_id, q.reason) for q in result.quarantined],
        manifest_digest=manifest.digest,
        embeddings_digest=result.seal.digest,
        run_id=run_id,
    )
    return manifest, result


def describe_embeddings(
    result: "EmbeddingResult", spec: EncoderSpec, *, manifest: Manifest, ring: "PixelRing"
) -> dict[str, Any]:
    """Counts, rate, where the time went, the quarantine and a contact sheet of the batch."""
    from clip_pipeline.embedding.contact_sheet import contact_sheet  # noqa: PLC0415  (torch)

    return {
        "images": result.embedded,
        "quarantined": len(result.quarantined),
        "images_per_s": round(result.images_per_s, 2),
        "seconds": round(result.seconds, 2),
        "forward_s": round(result.forward_s, 2),
        "decode_wait_s": round(result.decode_wait_s, 2),
        "peak_memory_megabytes": round(result.peak_memory_bytes / 1e6, 1),
        "dim": spec.dim,
        "encoder": spec.name,
        "fingerprint": spec.fingerprint,
        "digest": result.seal.digest,
        "quarantine": describe_quarantine(result.quarantined),
        "contact_sheet": png_image(contact_sheet(ring, manifest.rows), alt=f"first images of {manifest.batch}"),
    }
