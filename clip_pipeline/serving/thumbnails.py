"""Thumbnails of indexed images: made once in an isolated process, kept in the store, found there ever after."""

import logging
import threading
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from clip_pipeline.core.errors import ClipPipelineError, NotFoundError
from clip_pipeline.core.inspection import reason_of
from clip_pipeline.core.isolation import Crash, Error, Hang, IsolatedPool
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.core.store import Store, replace_file
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.lookup import ImageHit, images_by_id
from clip_pipeline.serving.thumbnail_worker import ThumbnailTask, make_thumbnail

logger = logging.getLogger(__name__)

PATHS_TRIED = 4
"""A content whose standing file is away may still be there under another path."""


class ThumbnailSide(IntEnum):
    """Long side of a thumbnail in pixels. A few sizes, so that a cache of them stays small."""

    TINY = 64
    SMALL = 128
    NORMAL = 256
    LARGE = 512


class NoThumbnailError(ClipPipelineError):
    """The image is indexed, but its file gives no picture now. reason: why."""

    def __init__(self, image_id: int, reason: Reason) -> None:
        super().__init__(f"no thumbnail of image {image_id} can be made: {reason}; restore the file, or index it again")
        self.reason = reason


class Thumbnails:
    """Thumbnails of one store. Safe to share between threads: those that make one take turns at one process."""

    def __init__(self, store: Store, ledger: Ledger, limits: ImageLimits) -> None:
        self._store = store
        self._ledger = ledger
        self._limits = limits
        self._turn = threading.Lock()
        self._pool: IsolatedPool[ThumbnailTask, bytes | Reason] | None = None

    def image(self, image_id: int) -> ImageHit:
        """The live image with this id.

        Raises:
            NotFoundError: there is none, or it was deleted.
        """
        found = images_by_id(self._ledger, [image_id]).get(image_id)
        if found is None:
            raise NotFoundError(f"no image {image_id} is indexed; a search lists those that are")
        return found

    def webp(self, image: ImageHit, side: int) -> bytes:
        """The thumbnail as a WebP file.

        Raises:
            NoThumbnailError: none of the image's files can be read and decoded now.
        """
        cached = self._store.thumbnail_path(image.sha256, side=side)
        content = _read(cached)
        if content is None:
            with self._turn:
                # Made by somebody else while this thread waited?
                content = _read(cached) or self._make(image, side, cached)
        return content

    def close(self) -> None:
        """Stop the process."""
        with self._turn:
            self._stop()

    def _make(self, image: ImageHit, side: int, cached: Path) -> bytes:
        made = self._first_of((image.path, *image.duplicates)[:PATHS_TRIED], image.sha256, side)
        if isinstance(made, Reason):
            raise NoThumbnailError(image.image_id, made)
        try:
            with replace_file(cached) as temporary:
                temporary.write_bytes(made)
        except OSError as error:  # a full disk costs speed, not the answer
            logger.warning("thumbnail not kept", extra={"reason": str(error)})
        return made

    def _first_of(self, paths: Sequence[str], sha256: str, side: int) -> bytes | Reason:
        reason = Reason(ReasonCode.MISSING)
        for path in paths:
            made = self._run(ThumbnailTask(path, sha256, side, self._limits))
            if not isinstance(made, Reason):
                return made
            reason = made
            if not reason.is_about_path:
                break
        return reason

    def _run(self, task: ThumbnailTask) -> bytes | Reason:
        if self._pool is None:
            self._pool = IsolatedPool(make_thumbnail, timeout_s=self._limits.timeout_s, workers=1).__enter__()
        try:
            self._pool.submit(task)
            (outcome,) = self._pool.collect()
        except BaseException:  # the pool may still hold this image; the next one gets another pool
            self._stop()
            raise
        return reason_of(outcome.value) if isinstance(outcome.value, Crash | Hang | Error) else outcome.value

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
