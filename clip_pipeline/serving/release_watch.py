"""The release that searches use: the newest published one that verifies. A swap fails no request."""

import logging
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ClipPipelineError, StoreError
from clip_pipeline.core.release import release_numbers
from clip_pipeline.core.store import Store
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.serving.background import in_background

logger = logging.getLogger(__name__)

SWAP_PATIENCE_S = 2.0
"""What a request gives a release that was just published; a large one takes longer to verify, the old one answers."""

FIRST_PATIENCE_S = 30.0
RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class RejectedRelease:
    """A published release that cannot be served, why, and when that was found (monotonic seconds).

    number: None where `CURRENT` itself cannot be read.
    """

    number: int | None
    reason: str
    at: float


class ReleaseWatch:
    """The releases of one encoder. Safe to share between threads.

    An old reader is not closed but let go of: a search holds on to the reader it began with, and the last one to end
    frees it.
    """

    def __init__(self, store: Store, spec: EncoderSpec) -> None:
        self._store = store
        self._spec = spec
        self._reader: ReleaseReader | None = None
        self._rejected: RejectedRelease | None = None
        self._opening: Future[None] | None = None
        self._deciding = threading.Lock()

    @property
    def reader(self) -> ReleaseReader | None:
        """What searches use now, without looking for a newer one."""
        return self._reader

    @property
    def rejected(self) -> RejectedRelease | None:
        """The published release that is not served because it does not verify."""
        return self._rejected

    def current(self) -> ReleaseReader | None:
        """The reader to search with, of the release published last or of the last good one; None before the first."""
        deadline = time.monotonic() + (FIRST_PATIENCE_S if self._reader is None else SWAP_PATIENCE_S)
        while (opening := self.refresh()) is not None:
            if not wait([opening], timeout=max(0.0, deadline - time.monotonic())).done:
                break
        return self._reader

    def refresh(self) -> "Future[None] | None":
        """Begin to open the published release where it is not the one served; the opening under way, if any."""
        with self._deciding:
            if self._opening is not None and not self._opening.done():
                return self._opening
            try:
                number = self._store.current_release_number(self._spec.key)
            except (StoreError, OSError) as error:
                self._rejected = RejectedRelease(None, str(error), time.monotonic())
                return None
            if number is None or not self._is_news(number):
                return None
            self._opening = in_background(lambda: self._open(number), name=f"open-release-{number}")
            return self._opening

    def _is_news(self, number: int) -> bool:
        if self._reader is not None and number == self._reader.release.number:
            self._rejected = None
            return False
        rejected = self._rejected
        return rejected is None or rejected.number != number or time.monotonic() - rejected.at > RETRY_S

    def _open(self, number: int) -> None:
        try:
            self._serve(None)
            self._rejected = None
        except (ClipPipelineError, OSError) as error:
            self._rejected = RejectedRelease(number, str(error), time.monotonic())
            logger.error("release rejected", extra={"release": number, "reason": str(error)})
            if self._reader is None:
                self._serve_older(number)

    def _serve(self, number: int | None) -> None:
        reader = ReleaseReader.open(self._store, self._spec.key, number=number)
        reader.check_fingerprint(self._spec)
        self._reader = reader
        logger.info("release served", extra={"release": reader.release.number, "images": reader.release.images})

    def _serve_older(self, rejected: int) -> None:
        """The newest release before the rejected one that verifies, after a start that found the current one bad."""
        for number in reversed([n for n in release_numbers(self._store, self._spec.key) if n < rejected]):
            try:
                self._serve(number)
            except (ClipPipelineError, OSError) as error:
                logger.warning("older release rejected", extra={"release": number, "reason": str(error)})
            else:
                return
