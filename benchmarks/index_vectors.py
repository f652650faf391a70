"""Made-up embeddings in any number, sealed as batches of a store, and what is truly nearest among them.

Real embeddings are not to be had by the million here. These are made to be as hard to search as such: a direction that
all share, topics, scenes within topics of very different sizes, and differences within a scene that a few directions
dominate, as the spectrum of CLIP's embeddings falls. They are nobody's pictures, and results on them say nothing about
how well pictures are found.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.embeddings import VECTORS, StoredVectors
from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec, Preprocessing, fingerprint_of
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import Manifest, ManifestRow
from clip_pipeline.core.metrics import IdMatrix
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.sealing import Embedded, seal_embeddings
from clip_pipeline.index.exact import exact_search
from clip_pipeline.index.plan import LiveImages
from clip_pipeline.index.source import VectorBlock

DIM = 512
BATCH_ROWS = 10_000
TOPICS, SCENES_OF_TOPIC = 300, 20
SHARED, OF_TOPIC, OF_SCENE, OF_IMAGE = 0.6, 0.5, 0.4, 0.45
"""Lengths of the parts of a vector: the cosine of two images is 0.37 in the mean, 0.79 within a scene."""
DESCRIPTION = (
    f"made up: {TOPICS} topics of {SCENES_OF_TOPIC} scenes each, sizes by Zipf's law, spectrum falling as 1/i; no real "
    "embeddings"
)
_SEED = 20_240_229
_QUERY_SEED = 1


def made_up_spec() -> EncoderSpec:
    """An encoder that does not exist, of the dimension of CLIP ViT-B/32."""
    preprocessing = Preprocessing("shortest", 224, 224, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    fingerprint = fingerprint_of(weights_sha256="made-up", preprocessing=preprocessing, dtype="float32", dim=DIM)
    return EncoderSpec("made-up-512", "made-up-512", fingerprint, DIM, "float32", preprocessing)


@dataclass(frozen=True, slots=True)
class MadeUpVectors:
    """Vectors drawn from one distribution. Batch `number` is the same whoever asks, and however many there are."""

    shared: EmbeddingMatrix
    centres: EmbeddingMatrix
    shares: npt.NDArray[np.float64]
    basis: EmbeddingMatrix

    @classmethod
    def prepare(cls) -> "MadeUpVectors":
        """The distribution, about a second."""
        rng = np.random.default_rng(_SEED)
        rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
        spectrum = 1 / np.sqrt(np.arange(1, DIM + 1))
        basis = ((spectrum / np.linalg.norm(spectrum))[:, None] * rotation).astype(np.float32)
        shared = rng.standard_normal((1, DIM)).astype(np.float32)
        topics = OF_TOPIC * _normal(rng, TOPICS) @ basis
        scenes = OF_SCENE * _normal(rng, TOPICS * SCENES_OF_TOPIC) @ basis
        centres = np.repeat(topics, SCENES_OF_TOPIC, axis=0) + scenes
        ranks = rng.permutation(len(centres)) + 20.0
        shared = (SHARED * shared / np.linalg.norm(shared)).astype(np.float32)
        return cls(shared, centres.astype(np.float32), (1 / ranks) / (1 / ranks).sum(), basis)

    def draw(self, n: int, *, seed: int) -> StoredVectors:
        """n unit vectors, float16 [n, d]."""
        rng = np.random.default_rng((_SEED, seed))
        chosen = rng.choice(len(self.centres), n, p=self.shares)
        vectors = self.shared + self.centres[chosen] + OF_IMAGE * _normal(rng, n) @ self.basis
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    def queries(self, n: int) -> EmbeddingMatrix:
        """n more, in none of the batches, float32 [n, d]."""
        return self.draw(n, seed=_QUERY_SEED).astype(np.float32)

    def seal(self, store: Store, number: int) -> None:
        """Seal batch `number`, as an embedding run would."""
        batch = BatchKey(number)
        rows = tuple(_row(image_id) for image_id in ids_of_batch(number).tolist())
        embedded = Embedded(rows, self.draw(BATCH_ROWS, seed=1000 + number))
        manifest = Manifest(batch, "made-up", rows)
        seal_embeddings(store, made_up_spec(), manifest, embedded=embedded, quarantined=(), run_id="benchmark")


def ids_of_batch(number: int) -> npt.NDArray[np.int64]:
    """The image ids of a batch, int64 [`BATCH_ROWS`]; the first of all is 0, so that an id is a position as well."""
    return np.arange((number - 1) * BATCH_ROWS, number * BATCH_ROWS, dtype=np.int64)


def live_images(batches: int) -> LiveImages:
    """What a ledger would say: all images of the first batches, each in its batch."""
    numbers = np.arange(1, batches + 1, dtype=np.int64)
    return LiveImages(np.arange(batches * BATCH_ROWS, dtype=np.int64), np.repeat(numbers, BATCH_ROWS))


def vectors_of_batch(store: Store, number: int) -> EmbeddingMatrix:
    """The sealed vectors of a batch, float32 [`BATCH_ROWS`, d], read into memory and not mapped."""
    return np.load(store.embeddings_dir(made_up_spec().key, BatchKey(number)) / VECTORS).astype(np.float32)


def blocks(store: Store, batches: int) -> Iterator[VectorBlock]:
    """The vectors of the first batches under their ids; memory stays at one batch."""
    for number in range(1, batches + 1):
        yield VectorBlock(ids_of_batch(number), vectors_of_batch(store, number))


def true_nearest(store: Store, queries: EmbeddingMatrix, *, batches: int, k: int) -> IdMatrix:
    """The ids of the k nearest of each query among the first batches, int64 [q, k], by comparing everything."""
    nobody = np.empty((len(queries), 0), np.int64)
    return exact_search(blocks(store, batches), queries, k=k, candidates=nobody).ids


def _normal(rng: np.random.Generator, n: int) -> EmbeddingMatrix:
    return rng.standard_normal((n, DIM), dtype=np.float32)


def _row(image_id: int) -> ManifestRow:
    return ManifestRow(image_id, f"{image_id:064x}", f"/made-up/{image_id:08d}.jpg", 400_000, 1, "JPEG", 8, 8, 1)
