"""One batch of sealed embeddings from many: every vector is copied as it is stored, no image is read. No torch."""

from collections.abc import Mapping

import numpy as np

from clip_pipeline.core.embeddings import Quarantined, Seal, StoredVectors, read_embeddings
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import Manifest
from clip_pipeline.core.release import IdArray
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.sealing import Embedded, seal_embeddings


def compact_embeddings(
    store: Store,
    spec: EncoderSpec,
    manifest: Manifest,
    *,
    batch_of: Mapping[int, BatchKey],
    digests: Mapping[BatchKey, str | None],
    quarantined: tuple[Quarantined, ...],
    run_id: str,
) -> Seal:
    """Seal the embeddings of `manifest` from those of other batches; its quarantined images are given.

    batch_of: for each of the other images, by id, the batch that holds its vector. digests: at which each of those
    batches must be sealed.

    Raises:
        StoreError: a batch was sealed anew since, or the result cannot be written.
        IntegrityError: sealed embeddings fail their digest, or lack a vector.
    """
    rows = tuple(row for row in manifest.rows if row.image_id in batch_of)
    vectors = np.empty((len(rows), spec.dim), np.float16)
    ids = np.array([row.image_id for row in rows], np.int64)
    numbers = np.array([batch_of[row.image_id].number for row in rows], np.int64)
    for batch in sorted(set(batch_of.values())):
        wanted = np.flatnonzero(numbers == batch.number)
        vectors[wanted] = _stored(store, spec, batch, digest=digests[batch], ids=ids[wanted])
    return seal_embeddings(
        store, spec, manifest, embedded=Embedded(rows, vectors), quarantined=quarantined, run_id=run_id
    )


def _stored(store: Store, spec: EncoderSpec, batch: BatchKey, *, digest: str | None, ids: IdArray) -> StoredVectors:
    """The vectors of these images, float16 [n, d], as one batch has them sealed."""
    sealed = read_embeddings(store, spec.key, batch)
    if (sealed.seal.digest, sealed.seal.fingerprint) != (digest, spec.fingerprint):
        raise StoreError(
            f"batch {batch} is sealed as {sealed.seal.digest[:12]}, expected {str(digest)[:12]}; it is compacted once "
            "a merge has seen it"
        )
    held = sealed.rows["image_id"].to_numpy(np.int64)
    order = np.argsort(held, kind="stable")
    if not len(held) or not np.isin(ids, held).all():
        missing = ids[~np.isin(ids, held)]
        raise IntegrityError(
            f"batch {batch} has no vector of {len(missing)} images that are indexed from it, first {missing[0]}; "
            "materialize image_embeddings for this partition"
        )
    return sealed.vectors[order[np.searchsorted(held, ids, sorter=order)]]
