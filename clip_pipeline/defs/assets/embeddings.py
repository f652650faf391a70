"""Asset `image_embeddings`: the sealed vectors of a batch, made on a GPU worker's code location."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np

from clip_pipeline.core.embeddings import Seal, read_seal
from clip_pipeline.core.encoder import Encoder, EncoderSpec
from clip_pipeline.core.errors import ConflictError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import Manifest, read_manifest
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.store import Store
from clip_pipeline.defs.logs import log_for_batch
from clip_pipeline.defs.metadata import describe_quarantine, png_image
from clip_pipeline.defs.partitions import batch_asset, partitions_to_make
from clip_pipeline.defs.priority import give_way
from clip_pipeline.defs.progress import observe_progress
from clip_pipeline.defs.resources import EncoderResource, PipelineResource
from clip_pipeline.defs.work import RETRY_NUMBER_TAG, earlier_tries
from clip_pipeline.ledger.cancellation import unwanted_embeddings
from clip_pipeline.ledger.embedding_results import (
    begin_embedding,
    is_recorded,
    record_embeddings,
    record_progress,
)
from clip_pipeline.ledger.planning import manifest_digest
from clip_pipeline.settings import Settings

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
    give_way()
    unaccounted = 0
    with _encoder_and_ring(pipeline.settings(), encoder) as (loaded, ring):
        for partition_key in partitions_to_make(context, pipeline.ledger()):
            with log_for_batch(partition_key):
                unaccounted += _make(context, pipeline, loaded, ring, batch=BatchKey.parse(partition_key))
    yield dg.AssetCheckResult(
        check_name=ALL_ACCOUNTED, passed=unaccounted == 0, metadata={"unaccounted_images": unaccounted}
    )


@contextmanager
def _encoder_and_ring(
    settings: Settings, resource: EncoderResource
) -> Generator[tuple[Encoder, "PixelRing"], None, None]:
    """The encoder with its weights loaded, and decode workers: they import torch meanwhile, in a process of theirs."""
    from clip_pipeline.embedding.ring import PixelRing  # noqa: PLC0415  (torch)

    # The first run of all chooses the encoder, and with it what pixels there are to be.
    spec = pinned_encoder(settings.store) or resource.load(settings).spec
    with PixelRing(
        spec.preprocessing,
        limits=settings.image_limits,
        forward_batch=settings.forward_batch,
        decode_workers=settings.decode_workers,
    ) as ring:
        encoder = resource.load(settings)
        size = spec.preprocessing
        with suppress(MemoryError):  # a forward pass of a batch meets it too, and says what to do
            encoder.encode_images(np.zeros((1, 3, size.height, size.width), np.uint8))
        yield encoder, ring


def _make(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    encoder: Encoder,
    ring: "PixelRing",
    *,
    batch: BatchKey,
) -> int:
    """How many images of a batch are neither embedded nor quarantined, now that it is done: none should be."""
    if len(context.partition_keys) > 1 and _needs_nothing(context, pipeline, batch, encoder.spec):
        return 0
    manifest, result = _embed(context, pipeline, encoder, ring, batch=batch)
    context.log_event(
        dg.AssetMaterialization(
            KEY,
            partition=str(batch),
            metadata=describe_embeddings(result, encoder.spec, manifest=manifest, ring=ring),
            tags={"dagster/data_version": result.seal.digest[:32]},
        )
    )
    return len(manifest.rows) - result.embedded - len(result.quarantined)


def _embed(
    context: dg.AssetExecutionContext,
    pipeline: PipelineResource,
    encoder: Encoder,
    ring: "PixelRing",
    *,
    batch: BatchKey,
) -> tuple[Manifest, "EmbeddingResult"]:
    from clip_pipeline.embedding.loop import embed_batch  # noqa: PLC0415  (torch)

    ledger, store, run_id = pipeline.ledger(), pipeline.store(), context.run.run_id
    manifest = read_manifest(store, batch, digest=manifest_digest(ledger, batch))
    _refuse_if_over(context)
    begin_embedding(ledger, batch, run_id=run_id)
    observe = observe_progress(context, KEY, batch, noun="processed")

    def on_progress(done: int, _failed: int) -> None:
        record_progress(ledger, batch, processed=done, run_id=run_id)
        observe(done, len(manifest.rows))

    result = embed_batch(
        store,
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
        is_still_sealed=lambda: _is_sealed(store, result.seal, encoder.spec),
    )
    return manifest, result


def _needs_nothing(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, batch: BatchKey, spec: EncoderSpec
) -> bool:
    """True of a batch among several whose jobs were canceled meanwhile, or that an earlier try of this run finished."""
    ledger = pipeline.ledger()
    if unwanted_embeddings(ledger, {batch}):
        context.log.info("batch %s is left out: nobody waits for it any more", batch)
        return True
    if RETRY_NUMBER_TAG not in context.run.tags:
        return False
    try:
        seal = read_seal(pipeline.store(), spec.key, batch)
    except StoreError:
        return False
    is_done = seal.run_id in earlier_tries(context.instance, context.run) and is_recorded(
        ledger, batch, manifest_digest=str(manifest_digest(ledger, batch)), embeddings_digest=seal.digest
    )
    if is_done:
        context.log.info("batch %s is left out: run %s finished it", batch, seal.run_id)
    return is_done


def _refuse_if_over(context: dg.AssetExecutionContext) -> None:
    """A run whose worker was frozen may have been failed meanwhile: it takes no further batch from its successor."""
    run = context.instance.get_run_by_id(context.run.run_id)
    if run is not None and run.is_finished:
        raise ConflictError(f"run {run.run_id} ended as {run.status.value} while it was out of reach; it stops here")


def _is_sealed(store: Store, seal: Seal, spec: EncoderSpec) -> bool:
    """True while the files on disk are those of this very seal."""
    try:
        return read_seal(store, spec.key, BatchKey.parse(seal.batch)) == seal
    except StoreError:  # another run is about to put its own in their place
        return False


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
