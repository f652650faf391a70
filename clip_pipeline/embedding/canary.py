"""Embedding the canary's pictures, as a run embeds a batch: from files, by decode workers, in forward passes.

The pictures are drawn, so they belong to nobody, and each takes another way through the decoders: EXIF orientation,
progressive and grey and CMYK JPEG, a palette, 16 bits, transparency, WebP.
"""

import hashlib
import importlib.resources
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clip_pipeline.core.canary import CanaryVectors, check_reproduced, read_golden, record_golden, renew_golden
from clip_pipeline.core.encoder import Encoder, EncoderSpec, Preprocessing
from clip_pipeline.core.errors import EncoderUnavailableError, IntegrityError
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.reasons import Reason
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.forward import EmbeddingVector, ForwardPass
from clip_pipeline.embedding.ring import PixelRing

PICTURES = (
    "sunset.jpg", "street.jpg", "mountain.jpg", "balloons.jpg", "flower.png", "moon.png", "fish.png", "leaf.webp",
)  # fmt: skip
DECODE_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """One file to decode; what a `PixelRing` asks of it."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CanaryResult:
    """How it went. cosine: the least one; None where there was nothing golden before, and what was made is now."""

    cosine: float | None


def canary_ring(preprocessing: Preprocessing, *, limits: ImageLimits, forward_batch: int) -> PixelRing:
    """The decode workers that the pictures need; as those of a run, but few."""
    return PixelRing(preprocessing, limits=limits, forward_batch=forward_batch, decode_workers=DECODE_WORKERS)


def check_canary(store: Store, encoder: Encoder, *, ring: PixelRing) -> CanaryResult:
    """Compare what `encoder` makes of the pictures with what is golden for it; the first to come makes it golden.

    Raises:
        FingerprintMismatchError: the vectors are not the golden ones.
        EncoderUnavailableError: a picture cannot be embedded at all.
        StoreError: the golden vectors cannot be read.
    """
    found = canary_vectors(encoder, ring)
    golden = golden_vectors(store, encoder.spec)
    if golden is None:
        if record_golden(store, encoder.spec, found):
            return CanaryResult(None)
        golden = golden_vectors(store, encoder.spec)  # another worker was quicker
        assert golden is not None
    return CanaryResult(check_reproduced(golden, found, names=PICTURES))


def renew_canary(store: Store, encoder: Encoder, *, ring: PixelRing) -> None:
    """Make what `encoder` makes of the pictures golden, whatever was golden before."""
    renew_golden(store, encoder.spec, canary_vectors(encoder, ring))


def golden_vectors(store: Store, spec: EncoderSpec) -> CanaryVectors | None:
    """The golden vectors of one encoder: those of the store, else those that came with the package, if any."""
    found = read_golden(store.canary_path(spec.key))
    if found is not None:
        return found
    with _data_folder() as folder:
        return read_golden(folder / f"{spec.fingerprint[:12]}.npz")


def canary_vectors(encoder: Encoder, ring: PixelRing) -> CanaryVectors:
    """What `encoder` makes of the pictures now, decoded by an open and idle `ring` of its preprocessing.

    Raises:
        EncoderUnavailableError: one of them cannot be decoded or embedded.
    """
    with _data_folder() as folder:
        pictures = _pictures(folder)
        forward = ForwardPass(encoder, ring.forward_batch)
        vectors: list[EmbeddingVector] = []
        for first in range(0, len(pictures), ring.forward_batch):
            vectors += _embedded(ring, forward, pictures[first : first + ring.forward_batch])
    digest = hashlib.sha256("".join(picture.sha256 for picture in pictures).encode()).hexdigest()
    return CanaryVectors(encoder.spec.fingerprint, digest, np.stack(vectors).astype(np.float32))


def _embedded(ring: PixelRing, forward: ForwardPass, group: Sequence[Picture]) -> list[EmbeddingVector]:
    ring.drain()
    for slot, picture in enumerate(group):
        ring.submit(0, slot, picture)
    waiting = len(group)
    while waiting:
        filled = ring.collect()
        waiting -= len(filled)
        for one in filled:
            if one.reason is not None:
                raise _failed(group[one.slot], one.reason)
    vectors: list[EmbeddingVector] = []
    for picture, found in zip(group, forward.embed(ring.pixels(0)[: len(group)]), strict=True):
        if isinstance(found, Reason):
            raise _failed(picture, found)
        vectors.append(found)
    return vectors


def _failed(picture: Picture, reason: Reason) -> EncoderUnavailableError:
    return EncoderUnavailableError(
        f"the canary's picture {picture.path} cannot be embedded: {reason}; look at the versions of Pillow, simplejpeg "
        "and torch, and at the memory of the device"
    )


def _pictures(folder: Path) -> list[Picture]:
    found: list[Picture] = []
    for name in PICTURES:
        path = folder / name
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise IntegrityError(
                f"{path}, a picture of the canary, is not there; install clip_pipeline anew"
            ) from error
        found.append(Picture(path_to_text(path), digest))
    return found


@contextmanager
def _data_folder() -> Generator[Path, None, None]:
    with importlib.resources.as_file(importlib.resources.files("clip_pipeline.embedding") / "data" / "canary") as path:
        yield path
