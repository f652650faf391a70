"""Uploaded query images to pixels, in a process where a crash or a hang of a decoder costs one request."""

from pathlib import Path
from typing import TYPE_CHECKING

from clip_pipeline.core.encoder import PixelBatch, Preprocessing
from clip_pipeline.core.isolation import IsolatedPool
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.reasons import Reason
from clip_pipeline.serving.one_worker import OneWorker
from clip_pipeline.serving.queries import UndecodableQueryError

if TYPE_CHECKING:
    from clip_pipeline.serving.decode_worker import DecodeTask


class QueryImages:
    """One decoding process, started by the first image. Safe to share between threads: they take turns."""

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._worker = OneWorker(self._decoder)

    def pixels(self, file: Path, preprocessing: Preprocessing) -> PixelBatch:
        """The encoder's pixels of one image file, uint8 [1, 3, h, w].

        Raises:
            UndecodableQueryError: the file is no image that can be used.
        """
        from clip_pipeline.serving.decode_worker import DecodeTask  # noqa: PLC0415 - as in `_decoder`

        with self._worker.turn() as decode:
            value = decode(DecodeTask(path_to_text(file), preprocessing, self._limits))
        if isinstance(value, Reason):
            raise UndecodableQueryError(value)
        return value

    def close(self) -> None:
        """Stop the process."""
        self._worker.close()

    def _decoder(self) -> "IsolatedPool[DecodeTask, PixelBatch | Reason]":
        # The module of the worker imports torch, which a service that is asked for text only loads elsewhere.
        from clip_pipeline.embedding.decode import use_one_thread  # noqa: PLC0415
        from clip_pipeline.serving.decode_worker import decode_file  # noqa: PLC0415

        return IsolatedPool(decode_file, timeout_s=self._limits.timeout_s, workers=1, initializer=use_one_thread)
