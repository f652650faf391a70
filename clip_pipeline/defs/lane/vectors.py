"""Vectors of uploaded images, by content: one that is known already, from the index or an earlier upload, is not made
again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.reasons import Reason
from clip_pipeline.core.store import Store
from clip_pipeline.index.source import SealedSource
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.upload_vectors import indexed_images, keep_vectors, stored_vectors

if TYPE_CHECKING:
    from clip_pipeline.embedding.analyzer import Analyzer, Upload
    from clip_pipeline.embedding.forward import EmbeddingVector


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of some contents, and the uploads that have to be encoded."""

    known: dict[str, "EmbeddingVector"]
    uploads: tuple["Upload", ...]


class UploadVectors:
    """Vectors of one encoder, float32 [d] of unit length; used by one thread."""

    def __init__(self, ledger: Ledger, store: Store, analyzer: "Analyzer", *, spec: EncoderSpec) -> None:
        self._ledger = ledger
        self._store = store
        self._analyzer = analyzer
        self._spec = spec
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def prefetch(self, contents: Iterable[str]) -> None:
        """Look up these contents and begin to decode those that are new."""
        key = tuple(dict.fromkeys(contents))
        self._plans[key] = plan = self._plan(key)
        self._analyzer.prefetch(plan.uploads)

    def of(self, contents: Iterable[str]) -> tuple[dict[str, "EmbeddingVector | Reason"], set[str]]:
        """For each content its vector or why there is none, and the contents whose vector was known."""
        key = tuple(dict.fromkeys(contents))
        plan = self._plans.pop(key, None) or self._plan(key)
        made = self._analyzer.vectors(plan.uploads) if plan.uploads else []
        fresh = {upload.sha256: value for upload, value in zip(plan.uploads, made, strict=True)}
        vectors = {sha256: value for sha256, value in fresh.items() if not isinstance(value, Reason)}
        if vectors:
            keep_vectors(self._ledger, vectors, fingerprint=self._spec.fingerprint)
        return {**plan.known, **fresh}, set(plan.known)

    def _plan(self, contents: Sequence[str]) -> _Plan:
        from clip_pipeline.embedding.analyzer import Upload  # noqa: PLC0415  (torch)

        stored = stored_vectors(self._ledger, contents, fingerprint=self._spec.fingerprint)
        known = {sha256: vector.astype(np.float32) for sha256, vector in stored.items()}
        known |= self._indexed([sha256 for sha256 in contents if sha256 not in known])
        uploads = (
            Upload(path_to_text(self._store.upload_path(sha256)), sha256) for sha256 in contents if sha256 not in known
        )
        return _Plan(known, tuple(uploads))

    def _indexed(self, contents: Sequence[str]) -> dict[str, "EmbeddingVector"]:
        """The vectors of contents that are indexed images, as their batches have them sealed."""
        if not contents:
            return {}
        source = SealedSource(self._store, self._spec)
        found: dict[str, EmbeddingVector] = {}
        for sha256, image in indexed_images(self._ledger, contents).items():
            batch = BatchKey(image.batch)
            try:
                digest = source.digests([batch])[batch]
                (block,) = source.blocks(batch, digest, wanted=np.array([image.image_id], np.int64))
            except (KeyError, StoreError):
                continue  # sealed anew, or of another encoder, right now: the upload is encoded like any other
            found[sha256] = block.vectors[0]
        return found
