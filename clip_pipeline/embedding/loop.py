"""`embed_batch`: a manifest in, sealed embeddings out. No Dagster, no ledger.

Decoding runs in worker processes (`embedding.ring`), forward passes in this one. On a CPU both share the cores, and
torch should still have its default number of threads here: on two cores ViT-B/32 made 16 to 18 images/s with two
threads and 8 to 9 with one, with one decode worker or two.
"""

import logging
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from clip_pipeline.core.embeddings import Quarantined, Seal, StoredVectors
from clip_pipeline.core.encoder import Encoder, PixelBatch
from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.manifest import Manifest
from clip_pipeline.core.reasons import Reason
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.decode import Decode, load_pixels
from clip_pipeline.embedding.forward import NO_ROOM, ForwardPass
from clip_pipeline.embedding.ring import PixelRing
from clip_pipeline.embedding.sealing import Embedded, seal_embeddings

logger = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """What embedding one batch came to.

    seconds: wall time of it all; forward_s of them were spent in the encoder, decode_wait_s waiting for pixels.
    peak_memory_bytes: of this process since it began, decode workers not counted. forward_batch: images of a forward
    pass at the end, smaller than asked for when memory ran out.
    """

    batch: BatchKey
    seal: Seal
    embedded: int
    quarantined: tuple[Quarantined, ...]
    seconds: float
    images_per_s: float
    decode_wait_s: float
    forward_s: float
    forward_batch: int
    peak_memory_bytes: int


def embed_batch(
    store: Store,
    encoder: Encoder,
    manifest: Manifest,
    *,
    limits: ImageLimits,
    run_id: str,
    forward_batch: int = 32,
    decode_workers: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    decode: Decode = load_pixels,
    ring: PixelRing | None = None,
) -> EmbeddingResult:
    """Embed every image of `manifest` and publish the batch, replacing what was sealed before.

    on_progress: called with images done and images failed, at most once a second and at the end. ring: an open one to
    use and leave open; `limits`, `forward_batch`, `decode_workers` and `decode` are then those it was made with.

    An image that cannot be embedded is quarantined with its reason. Forward passes take fixed groups of consecutive
    rows, so the same files give the same bytes however often a run was killed. Memory does not grow with the batch
    but for 2 bytes a number of the result: 15 MB for 10,000 images of 768 dimensions.

    Raises:
        StoreError: the result cannot be written, for example because the disk is full; nothing of it is visible.
        EncoderUnavailableError: the device has no room for a forward pass of even one image.
    """
    started = time.monotonic()
    vectors = np.empty((len(manifest.rows), encoder.spec.dim), np.float16)
    forward = ForwardPass(encoder, ring.forward_batch if ring else forward_batch)
    work = _Work(forward, manifest, vectors, on_progress)
    with ExitStack() as stack:
        if ring is None and manifest.rows:
            opened = PixelRing(
                encoder.spec.preprocessing,
                limits=limits,
                forward_batch=forward_batch,
                decode_workers=decode_workers,
                decode=decode,
            )
            ring = stack.enter_context(opened)
        if ring is not None:
            work.run(ring)
    work.report()
    embedded, quarantined = work.outcome()
    seal = seal_embeddings(store, encoder.spec, manifest, embedded=embedded, quarantined=quarantined, run_id=run_id)
    seconds = time.monotonic() - started
    logger.info(
        "batch embedded",
        extra={
            "batch": str(manifest.batch),
            "images": len(embedded.rows),
            "quarantined": len(quarantined),
            "seconds": seconds,
        },
    )
    return EmbeddingResult(
        batch=manifest.batch,
        seal=seal,
        embedded=len(embedded.rows),
        quarantined=quarantined,
        seconds=seconds,
        images_per_s=len(manifest.rows) / max(seconds, 1e-9),
        decode_wait_s=work.decode_wait_s,
        forward_s=work.forward_s,
        forward_batch=forward.limit,
        peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


@dataclass(slots=True)
class _Group:
    """Consecutive rows of the manifest from `first`, being decoded into one buffer of the ring."""

    first: int
    size: int
    pending: int


@dataclass(slots=True)
class _Work:
    """The state of one call of `embed_batch`: which rows are done, and how."""

    forward: ForwardPass
    manifest: Manifest
    vectors: StoredVectors
    on_progress: Callable[[int, int], None] | None
    reasons: dict[int, Reason] = field(default_factory=dict[int, Reason])
    done: int = 0
    failed: int = 0
    decode_wait_s: float = 0.0
    forward_s: float = 0.0
    _reported_at: float = 0.0

    def run(self, ring: PixelRing) -> None:
        """Decode and embed all rows; a group is embedded as soon as its last image is there, in whatever order."""
        ring.drain()  # of what a batch that ended with an error left behind
        began = time.monotonic()
        firsts = iter(range(0, len(self.manifest.rows), ring.forward_batch))
        groups: dict[int, _Group] = {}
        for buffer in range(ring.groups):
            self._start_group(ring, buffer, firsts, groups)
        while groups:
            for buffer in self._decoded(ring, groups):
                self._embed_group(groups.pop(buffer), ring.pixels(buffer))
                self._start_group(ring, buffer, firsts, groups)
        self.decode_wait_s = time.monotonic() - began - self.forward_s

    def outcome(self) -> tuple[Embedded, tuple[Quarantined, ...]]:
        """What is to be published, in the order of the manifest.

        Raises:
            EncoderUnavailableError: no image at all fitted on the device. All images of an encoder have one size, so
                this says something about the device and nothing about the images.
        """
        rows = self.manifest.rows
        good = [i for i in range(len(rows)) if i not in self.reasons]
        if not good and any(reason == NO_ROOM for reason in self.reasons.values()):
            raise EncoderUnavailableError(
                f"the device of {self.forward.encoder.spec.model_name} has no room for a forward pass of one image; "
                "free its memory or set CLIP_PIPELINE_DEVICE, and run the batch again"
            )
        quarantined = tuple(Quarantined(rows[i], self.reasons[i]) for i in sorted(self.reasons))
        vectors = self.vectors[good] if quarantined else self.vectors  # no copy where there is nothing to leave out
        return Embedded(tuple(rows[i] for i in good), vectors), quarantined

    def report(self) -> None:
        """Call `on_progress` now."""
        self._reported_at = time.monotonic()
        if self.on_progress is not None:
            self.on_progress(self.done, self.failed)

    def _start_group(self, ring: PixelRing, buffer: int, firsts: Iterator[int], groups: dict[int, _Group]) -> None:
        first = next(firsts, None)
        if first is None:
            return
        rows = self.manifest.rows[first : first + ring.forward_batch]
        groups[buffer] = _Group(first, len(rows), len(rows))
        for slot, row in enumerate(rows):
            ring.submit(buffer, slot, row)

    def _decoded(self, ring: PixelRing, groups: Mapping[int, _Group]) -> list[int]:
        """The buffers whose last image has come, waiting for the first."""
        complete: list[int] = []
        while not complete:
            for filled in ring.collect():
                group = groups[filled.group]
                group.pending -= 1
                if filled.reason is not None:
                    self.reasons[group.first + filled.slot] = filled.reason
                if group.pending == 0:
                    complete.append(filled.group)
        return complete

    def _embed_group(self, group: _Group, buffer: PixelBatch) -> None:
        began = time.monotonic()
        slots = [slot for slot in range(group.size) if group.first + slot not in self.reasons]
        pixels = buffer[: group.size] if len(slots) == group.size else buffer[slots]
        self._encode(pixels, [group.first + slot for slot in slots])
        self.forward_s += time.monotonic() - began
        self.done += group.size
        self.failed += sum(group.first + slot in self.reasons for slot in range(group.size))
        if time.monotonic() - self._reported_at >= _PROGRESS_EVERY_S:
            self.report()

    def _encode(self, pixels: PixelBatch, positions: Sequence[int]) -> None:
        for position, embedded in zip(positions, self.forward.embed(pixels), strict=True):
            if isinstance(embedded, Reason):
                self.reasons[position] = embedded
            else:
                self.vectors[position] = embedded
