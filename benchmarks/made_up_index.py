"""A home with an index of made-up images: ledger, sealed embeddings and releases are real, files and vectors not."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from clip_pipeline import __version__
from clip_pipeline.core.embeddings import StoredVectors
from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.inspection import Inspected
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import write_manifest
from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.embedding.builtin import builtin_spec
from clip_pipeline.embedding.sealing import Embedded, seal_embeddings
from clip_pipeline.index.plan import LiveImages
from clip_pipeline.index.publish import merge_release
from clip_pipeline.index.staging import Provenance
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.embedding_results import record_embeddings
from clip_pipeline.ledger.inspection_results import BatchFile, files_of_batch, record_inspection, record_manifest
from clip_pipeline.ledger.planning import plan_batches
from clip_pipeline.ledger.publishing import live_vectors, outstanding, record_release
from clip_pipeline.ledger.registration import FileFacts, Submission, register_files
from clip_pipeline.settings import Settings

BATCH_SIZE = 10_000
SPREAD = 0.04
"""Of each of the 384 components around a centre: the cosine to the centre is then 0.79 in the mean."""
_RUN = "benchmark"


@dataclass(frozen=True, slots=True)
class MadeUpIndex:
    """The index of one home, of the built-in encoder's fingerprint. Vectors lie around `centres`, float32 [c, d]."""

    settings: Settings
    ledger: Ledger
    centres: EmbeddingMatrix

    def add(self, first: int, count: int) -> int:
        """Index `count` images numbered from `first`, and publish; returns the number of the release."""
        spec = builtin_spec()
        pin_encoder(self.settings.store, spec)
        facts = (FileFacts(_path(n), 400_000 + n % 5000, 1) for n in range(first, first + count))
        register_files(self.ledger, facts, submission=Submission("cli"))
        for batch in plan_batches(self.ledger, batch_size=BATCH_SIZE, most=1000):
            self._embed(batch, spec)
        return self._publish(spec)

    def _embed(self, batch: BatchKey, spec: EncoderSpec) -> None:
        store = self.settings.store
        results = {file.file_id: _inspected(file) for file in files_of_batch(self.ledger, batch)}
        _, rows = record_inspection(self.ledger, batch, results)
        manifest = write_manifest(store, batch, rows)
        record_manifest(self.ledger, batch, digest=manifest.digest, rows=len(rows), run_id=_RUN)
        embedded = Embedded(tuple(rows), clustered_vectors(self.centres, len(rows), seed=batch.number))
        seal = seal_embeddings(store, spec, manifest, embedded=embedded, quarantined=(), run_id=_RUN)
        record_embeddings(
            self.ledger, batch, embedded=[row.image_id for row in rows], quarantined=[],
            manifest_digest=manifest.digest, embeddings_digest=seal.digest, run_id=_RUN,
        )  # fmt: skip

    def _publish(self, spec: EncoderSpec) -> int:
        due, (ids, batches) = outstanding(self.ledger), live_vectors(self.ledger)
        provenance = Provenance(_RUN, __version__, datetime.now(UTC))
        merged = merge_release(self.settings.store, spec, live=LiveImages(ids, batches), provenance=provenance)
        number = merged.release.number
        record_release(self.ledger, spec.key, number=number, live=ids, merged=due.batches, run_id=_RUN)
        return number


def clustered_vectors(centres: EmbeddingMatrix, n: int, *, seed: int) -> StoredVectors:
    """n unit vectors around centres drawn at random, float16 [n, d]."""
    rng = np.random.default_rng(seed)
    noise = SPREAD * rng.standard_normal((n, centres.shape[1]), dtype=np.float32)
    vectors = centres[rng.integers(0, len(centres), n)] + noise
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def _path(number: int) -> str:
    return f"/data/photographs/archive/{number // 1000:05d}/IMG_{number:08d}.jpg"


def _inspected(file: BatchFile) -> Inspected:
    sha256 = hashlib.sha256(file.path.encode()).hexdigest()
    return Inspected(file.path, 400_000, 1, sha256, "JPEG", 1632, 1224, 1)
