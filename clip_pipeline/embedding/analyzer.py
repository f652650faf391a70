"""Uploads to vectors, a micro-batch at a time, while the next one is decoded already. No ledger, no Dagster.

The difference to `embedding.loop` is who waits: here callers come with a few images again and again and want each
answer soon, so decode workers and buffers stay open between calls.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from clip_pipeline.core.encoder import Encoder
from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason
from clip_pipeline.embedding.decode import Decode, load_pixels
from clip_pipeline.embedding.forward import NO_ROOM, EmbeddingVector, ForwardPass
from clip_pipeline.embedding.ring import Filled, PixelRing


@dataclass(frozen=True, slots=True)
class Upload:
    """A stored image file: its path in text form, and the digest its content must have."""

    path: str
    sha256: str


class Analyzer:
    """An encoder with its decode workers; a context manager, used by one thread.

    Opening it returns at once while the workers' imports go on (about two seconds), so open it before the encoder's
    first use. A file that crashes or hangs its decoder costs its own answer only.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        limits: ImageLimits,
        forward_batch: int = 16,
        decode_workers: int = 0,
        decode: Decode = load_pixels,
    ) -> None:
        """forward_batch: images of a forward pass at most. decode_workers: 0 for one each core.

        Raises:
            ConfigurationError: the encoder's preprocessing crops more than it resizes to.
        """
        self._forward = ForwardPass(encoder, forward_batch)
        self._ring = PixelRing(
            encoder.spec.preprocessing,
            limits=limits,
            forward_batch=forward_batch,
            decode_workers=decode_workers,
            decode=decode,
        )
        self._free = list(range(self._ring.groups))
        self._decoding: dict[int, _Group] = {}
        self._ahead: dict[tuple[Upload, ...], _Call] = {}
        self._settled = True

    def __enter__(self) -> Self:
        self._ring.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ring.__exit__(kind, error, trace)

    def prefetch(self, uploads: Sequence[Upload]) -> None:
        """Begin to decode what a later call of `vectors` will ask for in the same order; as much as there is room."""
        self._recover()
        key = tuple(uploads)
        if key and key not in self._ahead and self._free:
            self._settled = False
            self._ahead[key] = _Call(key)
            self._start(self._ahead[key])
            self._settled = True

    def vectors(self, uploads: Sequence[Upload]) -> list[EmbeddingVector | Reason]:
        """For each upload its vector, float32 [d] of unit length, or why there is none.

        Raises:
            EncoderUnavailableError: the device has no room for a forward pass of even one image.
            ClipPipelineError: decode workers cannot start.
        """
        self._recover()
        self._settled = False
        key = tuple(uploads)
        found = self._finish(self._ahead.pop(key, None) or _Call(key))
        self._settled = True
        return found

    def _recover(self) -> None:
        """Give up what a call that ended with an error left behind."""
        if not self._settled:
            self._ring.drain()
            self._ahead.clear()
            self._decoding.clear()
            self._free = list(range(self._ring.groups))
            self._settled = True

    def _finish(self, call: "_Call") -> list[EmbeddingVector | Reason]:
        self._start(call)
        while call.groups or call.started < len(call.uploads):
            if not call.groups:
                self._give_up_prefetched()
                self._start(call)
            group = next((group for group in call.groups if not group.pending), None)
            if group is None:
                self._listen()
                continue
            self._embed(call, group)
            self._release(call, group)
            self._start(call)
        found = [call.found[i] for i in range(len(call.uploads))]
        reasons = [value for value in found if isinstance(value, Reason)]
        if len(reasons) == len(found) and NO_ROOM in reasons:
            raise EncoderUnavailableError(
                f"the device of {self._forward.encoder.spec.model_name} has no room for a forward pass of one image; "
                "free its memory or set CLIP_PIPELINE_DEVICE"
            )
        return found

    def _start(self, call: "_Call") -> None:
        while self._free and call.started < len(call.uploads):
            chosen = call.uploads[call.started : call.started + self._ring.forward_batch]
            group = _Group(self._free.pop(), call.started, len(chosen), pending=len(chosen))
            call.groups.append(group)
            call.started += len(chosen)
            self._decoding[group.buffer] = group
            for slot, upload in enumerate(chosen):
                self._ring.submit(group.buffer, slot, upload)

    def _listen(self) -> None:
        """Note which slots are done, waiting for the first."""
        for filled in self._ring.collect():
            self._decoding[filled.group].note(filled)

    def _embed(self, call: "_Call", group: "_Group") -> None:
        good = [slot for slot in range(group.size) if slot not in group.reasons]
        call.found |= {group.first + slot: reason for slot, reason in group.reasons.items()}
        buffer = self._ring.pixels(group.buffer)
        pixels = buffer[: group.size] if len(good) == group.size else buffer[good]
        for slot, embedded in zip(good, self._forward.embed(pixels), strict=True):
            call.found[group.first + slot] = embedded

    def _release(self, call: "_Call", group: "_Group") -> None:
        call.groups.remove(group)
        del self._decoding[group.buffer]
        self._free.append(group.buffer)

    def _give_up_prefetched(self) -> None:
        """All buffers hold what was prefetched and is not asked for now: wait for the decoders and take them back."""
        for call in self._ahead.values():
            for group in list(call.groups):
                while group.pending:
                    self._listen()
                self._release(call, group)
        self._ahead.clear()


@dataclass(slots=True)
class _Group:
    """`size` uploads of a call from `first`, being decoded into one buffer of the ring."""

    buffer: int
    first: int
    size: int
    pending: int
    reasons: dict[int, Reason] = field(default_factory=dict[int, Reason])

    def note(self, filled: Filled) -> None:
        self.pending -= 1
        if filled.reason is not None:
            self.reasons[filled.slot] = filled.reason


@dataclass(slots=True)
class _Call:
    """The uploads of one call of `vectors`, the groups of them in the ring, and what came out so far by position."""

    uploads: tuple[Upload, ...]
    groups: list[_Group] = field(default_factory=list[_Group])
    started: int = 0
    found: dict[int, EmbeddingVector | Reason] = field(default_factory=dict[int, EmbeddingVector | Reason])
