"""Small stand-ins that really do the work: an encoder without weights."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec, PixelBatch, Preprocessing, fingerprint_of

COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
}


class HashEncoder:
    """A fixed random projection of the picture at 8 x 8: equal pictures get equal vectors, similar ones similar.

    A text that names one of `COLOURS` gets the vector of a picture of that colour, any other an arbitrary one.
    """

    def __init__(self, *, dim: int = 64, side: int = 32, seed: int = 0) -> None:
        preprocessing = Preprocessing("shortest", side, side, side, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self._projection = np.random.default_rng(seed).standard_normal((3 * 8 * 8 + 1, dim)).astype(np.float32)
        weights = hashlib.sha256(self._projection.tobytes()).hexdigest()
        fingerprint = fingerprint_of(weights_sha256=weights, preprocessing=preprocessing, dtype="float32", dim=dim)
        self._spec = EncoderSpec(f"test-hash-{seed}", f"hash-{dim}", fingerprint, dim, "float32", preprocessing)

    @property
    def spec(self) -> EncoderSpec:
        return self._spec

    @property
    def logit_scale(self) -> float:
        return 20.0

    def encode_images(self, pixels: PixelBatch) -> EmbeddingMatrix:
        n, channels, height, width = pixels.shape
        blocks = pixels.reshape(n, channels, 8, height // 8, 8, width // 8).mean(axis=(3, 5), dtype=np.float32)
        features = np.concatenate([blocks.reshape(n, -1) / 127.5 - 1, np.full((n, 1), 0.5)], axis=1, dtype=np.float32)
        return _unit(features @ self._projection)

    def encode_texts(self, texts: Sequence[str]) -> EmbeddingMatrix:
        return np.concatenate([self._encode_text(text) for text in texts] or [np.zeros((0, self.spec.dim), np.float32)])

    def _encode_text(self, text: str) -> EmbeddingMatrix:
        named = [colour for name, colour in COLOURS.items() if name in text.lower().split()]
        if named:
            side = self.spec.preprocessing.size
            picture = np.broadcast_to(np.asarray(named[0], np.uint8)[:, None, None], (3, side, side))
            return self.encode_images(picture[None])
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        return _unit(np.random.default_rng(seed).standard_normal((1, self.spec.dim)).astype(np.float32))


def _unit(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> EmbeddingMatrix:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
