"""Decoding ahead of the forward passes: worker processes that write pixels into buffers shared with the loop.

One block of anonymous memory holds a few groups of images; a group is what one forward pass takes. Pixels are never
pickled or copied, and what is decoded but not yet embedded is bounded by the block, whatever the batch.
"""

import mmap
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from clip_pipeline.core.encoder import PixelBatch, Preprocessing
from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.core.inspection import reason_of
from clip_pipeline.core.isolation import Crash, Error, Hang, IsolatedPool, available_cores
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason
from clip_pipeline.embedding.decode import Decode, load_pixels, use_one_thread

_GROUPS_AHEAD = 4
_MAX_BACKLOG = 16


class Listed(Protocol):
    """A file to decode, by its path in text form, and the content that is expected there."""

    @property
    def path(self) -> str: ...  # noqa: D102

    @property
    def sha256(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Filled:
    """One slot is done: its pixels are there, or `reason` says why not."""

    group: int
    slot: int
    reason: Reason | None


class PixelRing:
    """Decode workers and their shared buffers; a context manager that serves any number of batches in turn.

    Opening it starts an import of torch in another process (about two seconds) and returns at once, so open it before
    loading the encoder and keep it between batches.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        limits: ImageLimits,
        forward_batch: int = 32,
        decode_workers: int = 0,
        decode: Decode = load_pixels,
    ) -> None:
        """forward_batch: images of a group. decode_workers: 0 for one each core.

        Raises:
            ConfigurationError: the preprocessing crops more than it resizes to.
        """
        _check(preprocessing)
        workers = decode_workers or available_cores()
        self.forward_batch = forward_batch
        self.groups = _GROUPS_AHEAD + 2 * workers // forward_batch
        shape = (self.groups, forward_batch, 3, preprocessing.height, preprocessing.width)
        self._descriptor = _anonymous_memory(int(np.prod(shape)))
        self._block = mmap.mmap(self._descriptor, 0)
        self._pixels: PixelBatch = np.frombuffer(self._block, np.uint8).reshape(shape)
        self._slots: dict[int, tuple[int, int]] = {}
        self._pool: IsolatedPool[tuple[int, int, str, str], Reason | None] = IsolatedPool(
            _fill,
            timeout_s=limits.timeout_s,
            workers=workers,
            backlog=max(2, min(_MAX_BACKLOG, self.groups * forward_batch // (2 * workers))),
            initializer=_start_worker,
            initargs=(self._descriptor, shape, preprocessing, limits, decode),
            preload=[__name__],
            inherit_fds=[self._descriptor],
        )

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)
        self._pixels = np.zeros(0, np.uint8)
        with suppress(BufferError):  # an encoder that keeps a view keeps the block
            self._block.close()
        os.close(self._descriptor)

    def pixels(self, group: int) -> PixelBatch:
        """The buffer of one group, uint8 [forward_batch, 3, h, w]: a view, valid until the group is filled anew."""
        return self._pixels[group]

    def submit(self, group: int, slot: int, row: Listed) -> None:
        """Have one image decoded into a slot that nothing else is going on in."""
        self._slots[self._pool.submit((group, slot, row.path, row.sha256))] = (group, slot)

    def collect(self) -> list[Filled]:
        """The slots that are done, waiting for the first; empty only when nothing was submitted."""
        return [
            Filled(*self._slots.pop(outcome.index), reason=_reason(outcome.value)) for outcome in self._pool.collect()
        ]

    def drain(self) -> None:
        """Wait until no worker writes any more: after an error between `submit` and `collect`."""
        while self._pool.in_flight:
            self.collect()


@dataclass(frozen=True, slots=True)
class _Worker:
    pixels: PixelBatch
    preprocessing: Preprocessing
    limits: ImageLimits
    decode: Decode


_workers: list[_Worker] = []
"""In a worker process, what it was started with; empty everywhere else."""


def _start_worker(
    descriptor: int, shape: tuple[int, ...], preprocessing: Preprocessing, limits: ImageLimits, decode: Decode
) -> None:
    use_one_thread()
    pixels = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(shape)
    _workers.append(_Worker(pixels, preprocessing, limits, decode))


def _fill(task: tuple[int, int, str, str]) -> Reason | None:
    group, slot, path_text, sha256 = task
    mine = _workers[0]
    out = mine.pixels[group, slot]
    return mine.decode(path_text, out, sha256=sha256, preprocessing=mine.preprocessing, limits=mine.limits)


def _reason(value: Reason | Crash | Hang | Error | None) -> Reason | None:
    return reason_of(value) if isinstance(value, Crash | Hang | Error) else value


def _check(preprocessing: Preprocessing) -> None:
    crop = max(preprocessing.height, preprocessing.width)
    if preprocessing.resize == "shortest" and preprocessing.size < crop:
        raise ConfigurationError(
            f"the encoder's preprocessing resizes the short side to {preprocessing.size} and crops {crop} pixels of "
            "it; use a model whose crop fits into what it resizes to"
        )


def _anonymous_memory(size: int) -> int:
    """A descriptor of `size` bytes that no name leads to: gone with the last process, and not limited by /dev/shm."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("clip-pipeline-pixels")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
