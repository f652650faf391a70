"""Uploaded query images to pixels, in a process where a crash or a hang of a decoder costs one request."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pipeline.core.encoder import PixelBatch, Preprocessing
from clip_pipeline.core.inspection import reason_of
from clip_pipeline.core.isolation import Crash, Error, Hang, IsolatedPool
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.reasons import Reason
from clip_pipeline.serving.queries import UndecodableQueryError

if TYPE_CHECKING:
    from clip_pipeline.serving.decode_worker import DecodeTask


class QueryImages:
    """One decoding process, started by the first image. Safe to share between threads: they take turns."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._turn = threading.Lock()
        self._pool: IsolatedPool[DecodeTask, PixelBatch | Reason] | None = None

    def pixels(self, file: Path, preprocessing: Preprocessing) -> PixelBatch:
        """The encoder's pixels of one image file, uint8 [1, 3, h, w].

        Raises:
            UndecodableQueryError: the file is no image that can be used.
        """
        with self._turn:
            value = self._decode(file, preprocessing)
        if isinstance(value, Reason):
            raise UndecodableQueryError(value)
        return value

    def close(self) -> None:
        """Stop the process."""
        with self._turn:
            self._stop()

    def _decode(self, file: Path, preprocessing: Preprocessing) -> PixelBatch | Reason:
        # The module of the worker imports torch, which a service that is asked for text only loads elsewhere.
        from clip_pipeline.embedding.decode import use_one_thread  # noqa: PLC0415
        from clip_pipeline.serving.decode_worker import DecodeTask, decode_file  # noqa: PLC0415

        if self._pool is None:
            pool = IsolatedPool(decode_file, timeout_s=self._limits.timeout_s, workers=1, initializer=use_one_thread)
            self._pool = pool.__enter__()
        try:
            self._pool.submit(DecodeTask(path_to_text(file), preprocessing, self._limits))
            (outcome,) = self._pool.collect()
        except BaseException:  # the pool may still hold this image; the next one gets another pool
            self._stop()
            raise
        return reason_of(outcome.value) if isinstance(outcome.value, Crash | Hang | Error) else outcome.value

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None
