"""Sealed embeddings with chosen ids and vectors, as the embedding loop leaves them, for tests of the index."""

from datetime import UTC, datetime

import numpy as np

from clip_pipeline.core.embeddings import VECTORS, Seal, content_digest, write_rows, write_seal
from clip_pipeline.core.encoder import EncoderSpec, Preprocessing, fingerprint_of
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import ManifestRow, file_sha256
from clip_pipeline.core.store import Store, replace_dir
from clip_pipeline.index.plan import LiveImages
from clip_pipeline.index.publish import merge_release
from clip_pipeline.index.staging import Provenance

PREPROCESSING = Preprocessing("shortest", 224, 224, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PROVENANCE = Provenance("run-1", "1.2.3", datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC))


def spec_of(dim=16, weights="w"):
    """An encoder specification of some dimension; other `weights` give another fingerprint."""
    fingerprint = fingerprint_of(weights_sha256=weights, preprocessing=PREPROCESSING, dtype="float32", dim=dim)
    return EncoderSpec("test-encoder", "test-encoder", fingerprint, dim, "float32", PREPROCESSING)


def unit(vectors):
    """Rows of length one, rounded to float16 as a batch stores them, as float32."""
    vectors = np.asarray(vectors, np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)


def random_vectors(n, dim=16, seed=0):
    """n unit vectors in no particular place."""
    return unit(np.random.default_rng(seed).standard_normal((n, dim)))


def clustered_vectors(n, dim=16, seed=0, clusters=5, spread=0.05):
    """n unit vectors close to a few centres, where neighbours are hard to tell apart."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    return unit(centres[rng.integers(0, clusters, n)] + spread * rng.standard_normal((n, dim)))


def seal_batch(store, spec, number, ids, vectors):
    """Seal one batch, replacing what is there; returns its content digest."""
    batch = BatchKey(number)
    rows = [ManifestRow(int(i), f"{int(i):064x}", f"/photos/{i}.jpg", 1, 1, "JPEG", 8, 8, 1) for i in ids]
    with replace_dir(store.embeddings_dir(spec.key, batch)) as folder:
        np.save(folder / VECTORS, np.asarray(vectors, np.float16).reshape(len(rows), spec.dim))
        write_rows(folder, rows, [])
        files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
        digest = content_digest(files, manifest_digest="m", fingerprint=spec.fingerprint)
        seal = Seal(
            str(batch), "m", spec.fingerprint, spec.name, spec.dim, len(rows), 0, files, digest, "run-0", "1.2.3"
        )
        write_seal(folder, seal)
    return digest


class Corpus:
    """A store with batches, and the ledger's view of them: `live` maps an image id to the batch of its vector."""

    def __init__(self, root, dim=16):
        self.store, self.spec = Store(root), spec_of(dim)
        self.live, self.vectors = {}, {}

    def add(self, number, ids, vectors=None):
        """Seal a batch whose images are all live in it from now on."""
        ids = np.asarray(ids, np.int64)
        vectors = random_vectors(len(ids), self.spec.dim, seed=number) if vectors is None else vectors
        seal_batch(self.store, self.spec, number, ids, vectors)
        self.live |= dict.fromkeys(ids.tolist(), number)
        self.vectors |= dict(zip(ids.tolist(), vectors, strict=True))

    def delete(self, ids):
        """The images leave; what they were is returned, for `live |=` to bring them back."""
        return {int(i): self.live.pop(int(i)) for i in ids}

    @property
    def live_images(self):
        """The ledger's view as arrays."""
        return live_of(self.live)

    def merge(self, **options):
        """Merge what is live now."""
        return merge_release(self.store, self.spec, live=self.live_images, provenance=PROVENANCE, **options)

    def exact(self, queries, k):
        """Scores float32 [q, k] and ids int64 [q, k] over the live images by comparing everything; ties by id."""
        ids = np.array(sorted(self.live), np.int64)
        matrix = np.array([self.vectors[i] for i in ids.tolist()], np.float32).reshape(len(ids), self.spec.dim)
        scores = queries @ matrix.T
        order = np.lexsort((np.broadcast_to(ids, scores.shape), -scores), axis=-1)[:, :k]
        return np.take_along_axis(scores, order, 1), ids[order]


def live_of(live):
    """`LiveImages` from a mapping of image id to batch number."""
    ids = np.array(sorted(live), np.int64)
    return LiveImages(ids, np.array([live[i] for i in ids.tolist()], np.int64))
