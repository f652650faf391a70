"""Vectors as the sealed embeddings have them: the truth that indexes are built from and measured against. No FAISS."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clip_pipeline.core.embeddings import (
    ROWS,
    SealedEmbeddings,
    check_unit_length,
    content_digest,
    read_embeddings,
    read_seal,
)
from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import FingerprintMismatchError, IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.release import IdArray
from clip_pipeline.core.store import Store
from clip_pipeline.index.plan import LiveImages

BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class VectorBlock:
    """Some vectors and whose they are. ids: int64 [n]; vectors: float32 [n, d], n <= `BLOCK_ROWS`."""

    ids: IdArray
    vectors: EmbeddingMatrix


@dataclass(frozen=True, slots=True)
class SealedSource:
    """The sealed embeddings of one encoder. Every read of vectors checks digests, fingerprint and unit length."""

    store: Store
    spec: EncoderSpec

    def digests(self, batches: Iterable[BatchKey]) -> dict[BatchKey, str]:
        """The content digest of those of `batches` that are sealed.

        Raises:
            IntegrityError: a seal is not readable as one.
        """
        found = ((batch, self._digest(batch)) for batch in batches)
        return {batch: digest for batch, digest in found if digest is not None}

    def image_ids(self, batch: BatchKey) -> IdArray:
        """The ids that a sealed batch states to hold, int64 [n], not checked; `blocks` checks them."""
        path = self.store.embeddings_dir(self.spec.key, batch) / ROWS
        try:
            return pd.read_parquet(path, engine="pyarrow", columns=["image_id"])["image_id"].to_numpy(np.int64)
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"{path} is not readable ({error}); materialize image_embeddings for {batch}") from error

    def blocks(self, batch: BatchKey, digest: str, *, wanted: IdArray) -> Iterator[VectorBlock]:
        """The vectors of `wanted` (ascending ids), in the order of the sealed rows.

        Raises:
            StoreError: the batch is not sealed, or was sealed anew since `digest` was read.
            IntegrityError: a file fails its digest, an id is not there or there twice, a vector is not of unit length.
            FingerprintMismatchError: another encoder made the vectors.
        """
        sealed = self._read(batch, digest)
        ids = sealed.rows["image_id"].to_numpy(np.int64)
        positions = np.flatnonzero(np.isin(ids, wanted))
        if not np.array_equal(np.sort(ids[positions]), wanted):
            raise IntegrityError(
                f"batch {batch}: expected one row for each of {len(wanted)} ids, found {len(positions)} rows for "
                f"{len(np.unique(ids[positions]))} of them; materialize image_embeddings for this partition"
            )
        for start in range(0, len(positions), BLOCK_ROWS):
            chosen = positions[start : start + BLOCK_ROWS]
            stored = sealed.vectors[chosen]
            check_unit_length(stored)
            yield VectorBlock(ids[chosen], stored.astype(np.float32))

    def all_blocks(self, content: LiveImages, digests: Mapping[BatchKey, str]) -> Iterator[VectorBlock]:
        """The vectors of every image of `content`, batch by batch; memory stays at one block."""
        for batch, wanted in content.by_batch():
            yield from self.blocks(batch, digests[batch], wanted=wanted)

    def collect(self, content: LiveImages, digests: Mapping[BatchKey, str]) -> VectorBlock:
        """The vectors of a few images at once, in the order of `all_blocks`."""
        blocks = list(self.all_blocks(content, digests))
        if not blocks:
            return VectorBlock(np.empty(0, np.int64), np.empty((0, self.spec.dim), np.float32))
        return VectorBlock(np.concatenate([b.ids for b in blocks]), np.concatenate([b.vectors for b in blocks]))

    def _digest(self, batch: BatchKey) -> str | None:
        # Twice: between the two renames of a batch that is being sealed anew it reads as absent for a moment.
        for _ in range(2):
            try:
                return read_seal(self.store, self.spec.key, batch).digest
            except IntegrityError:
                raise
            except StoreError:
                continue
        return None

    def _read(self, batch: BatchKey, digest: str) -> SealedEmbeddings:
        sealed = read_embeddings(self.store, self.spec.key, batch)
        seal = sealed.seal
        if seal.fingerprint != self.spec.fingerprint or seal.dim != self.spec.dim:
            raise FingerprintMismatchError(
                f"batch {batch} holds {seal.dim}-d vectors of {seal.fingerprint[:12]}, expected {self.spec.dim}-d ones "
                f"of {self.spec.fingerprint[:12]}; materialize image_embeddings for this partition"
            )
        made_of = content_digest(seal.files, manifest_digest=seal.manifest_digest, fingerprint=seal.fingerprint)
        if made_of != seal.digest:
            raise IntegrityError(f"batch {batch}: the seal states digest {seal.digest[:12]}, its parts give another")
        if seal.digest != digest:
            raise StoreError(f"batch {batch} was sealed anew ({seal.digest[:12]}, expected {digest[:12]}); merge again")
        return sealed
