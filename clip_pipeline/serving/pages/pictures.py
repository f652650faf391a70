"""The pictures of the stats page, made in the background and kept: some take seconds where there are many images."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Lock
from typing import Generic, TypeVar

from clip_pipeline.index.score_sample import ScoreSample, sample_scores
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.statistics import LedgerStatistics, ledger_statistics
from clip_pipeline.serving.background import in_background
from clip_pipeline.serving.engine import SearchEngine

logger = logging.getLogger(__name__)

FRESH_S = 10.0
STALE_S = 120.0
"""What is older than this is waited for rather than shown: somebody came back after a pause."""
SCORES_PAUSE_S = 60.0
"""Between two samples, however often releases are published: each takes seconds of one core."""
_KeptValue = TypeVar("_KeptValue")


class Kept(Generic[_KeptValue]):
    """What slow work gave last. Asked for when that is not fresh, the work begins again in a thread of its own."""

    def __init__(self, make: Callable[[], _KeptValue | None], *, fresh_s: float, name: str) -> None:
        self._make = make
        self._fresh_s = fresh_s
        self._name = name
        self._value: _KeptValue | None = None
        self._made_at = -STALE_S
        self._making: Future[None] | None = None
        self._deciding = Lock()

    def latest(self, *, within_s: float) -> _KeptValue | None:
        """The value as of a moment ago; None where there is none yet and none is made in time.

        Only what is missing or older than `STALE_S` is waited for; anything else is shown while a new one is made.
        """
        age_s = time.monotonic() - self._made_at
        if self._value is not None and age_s < self._fresh_s:
            return self._value
        making = self._begin()
        if self._value is None or age_s > STALE_S:
            wait([making], timeout=within_s)
        return self._value

    def _begin(self) -> "Future[None]":
        with self._deciding:
            if self._making is None or self._making.done():
                self._making = in_background(self._work, name=self._name)
            return self._making

    def _work(self) -> None:
        try:
            self._value = self._make()
        except Exception:  # the page goes without; the next one tries again
            logger.exception("picture not made", extra={"picture": self._name})
        else:
            self._made_at = time.monotonic()


class Pictures:
    """What is counted and sampled for the stats page of one service. Safe to share between threads."""

    def __init__(self, ledger: Ledger, engine: SearchEngine) -> None:
        self._ledger = ledger
        self._engine = engine
        self._statistics = Kept(lambda: ledger_statistics(self._ledger), fresh_s=FRESH_S, name="ledger-statistics")
        self._scores = Kept(self._sample, fresh_s=SCORES_PAUSE_S, name="score-sample")
        self._sampled: ScoreSample | None = None

    def statistics(self, *, within_s: float) -> LedgerStatistics | None:
        """The counts of the ledger, None where they take longer than `within_s` and none are kept."""
        return self._statistics.latest(within_s=within_s)

    def scores(self, *, within_s: float) -> ScoreSample | None:
        """The scores of the served release or of one before, None where there is none yet."""
        return self._scores.latest(within_s=within_s)

    def _sample(self) -> ScoreSample | None:
        served = self._engine.served()
        reader = None if served is None else served.releases.reader
        if reader is None:
            return None
        if self._sampled is None or self._sampled.release != reader.release.number:
            self._sampled = sample_scores(reader)
        return self._sampled
