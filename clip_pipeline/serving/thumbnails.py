"""Thumbnails of indexed images and uploads: made once in an isolated process, kept in the store, found ever after."""

import logging
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from clip_pipeline.core.errors import ClipPipelineError, NotFoundError
from clip_pipeline.core.isolation import IsolatedPool
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.core.store import Store, replace_file
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.lookup import ImageHit, images_by_id
from clip_pipeline.serving.one_worker import OneWorker, RunTask
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
        self._worker = OneWorker(self._maker)

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
        made = self._kept_or_made((image.path, *image.duplicates)[:PATHS_TRIED], sha256=image.sha256, side=side)
        if isinstance(made, Reason):
            raise NoThumbnailError(image.image_id, made)
        return made

    def webp_of_upload(self, sha256: str, side: int) -> bytes | Reason:
        """The thumbnail of an uploaded image as a WebP file, or why there is none."""
        path = self._store.upload_path(sha256)
        made = self._kept_or_made([path_to_text(path)], sha256=sha256, side=side)
        if not path.exists():  # deleted meanwhile, and its picture goes with it
            self._store.forget_upload_files(sha256)
            return Reason(ReasonCode.MISSING)
        return made

    def close(self) -> None:
        """Stop the process."""
        self._worker.close()

    def _maker(self) -> IsolatedPool[ThumbnailTask, bytes | Reason]:
        return IsolatedPool(make_thumbnail, timeout_s=self._limits.timeout_s, workers=1)

    def _kept_or_made(self, paths: Sequence[str], *, sha256: str, side: int) -> bytes | Reason:
        cached = self._store.thumbnail_path(sha256, side=side)
        content = _read(cached)
        if content is not None:
            return content
        tasks = [ThumbnailTask(path, sha256, side, self._limits) for path in paths]
        with self._worker.turn() as run:
            # Made by somebody else while this thread waited?
            made = _read(cached) or _first_of(tasks, run)
            if not isinstance(made, Reason):
                _keep(made, cached)
        return made


def _keep(content: bytes, cached: Path) -> None:
    try:
        with replace_file(cached) as temporary:
            temporary.write_bytes(content)
    except OSError as error:  # a full disk costs speed, not the answer
        logger.warning("thumbnail not kept", extra={"reason": str(error)})


def _first_of(tasks: Sequence[ThumbnailTask], run: RunTask[ThumbnailTask, bytes]) -> bytes | Reason:
    """The first thumbnail that can be made; a later path is tried only where a path, not the content, is at fault."""
    reason = Reason(ReasonCode.MISSING)
    for task in tasks:
        made = run(task)
        if not isinstance(made, Reason):
            return made
        reason = made
        if not reason.is_about_path:
            break
    return reason


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
