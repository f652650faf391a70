"""Answering a scrape: each part is read in a thread of its own and kept for a moment, none can spoil the others.

A scrape waits a little for fresh numbers and shows those of a moment ago where they take longer; how old they are is
one of the metrics. However often anybody scrapes, reading takes at most one twentieth of the time.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

import anyio
from prometheus_client.exposition import choose_encoder

from clip_pipeline.observability.metrics import SCRAPE_AGE_SECONDS, Exposition, Measures, Reading
from clip_pipeline.serving.background import in_background

logger = logging.getLogger(__name__)

KEPT_S = 2.0
PAUSE_PER_READING = 19
PATIENCE_S = 0.1
FIRST_PATIENCE_S = 2.0
"""For parts of which nothing is known yet."""
STALE_S = 120.0
"""What is older than this is no answer any more."""
CLOSING_PATIENCE_S = 5.0
THREADS = 2
"""Of its own, so that a scrape is answered while every other thread waits for something."""

Read: TypeAlias = Callable[[], Sequence[Reading]]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """readings: None where the part could not be read. begun_at, due_at: monotonic seconds."""

    readings: Sequence[Reading] | None
    begun_at: float
    due_at: float


class Part:
    """What one part of the system says of itself, kept for a moment. Safe to share between threads."""

    def __init__(self, name: str, read: Read, measures: Measures) -> None:
        self.name = name
        self._read = read
        self._measures = measures
        self._outcome: _Outcome | None = None
        self._reading: Future[None] | None = None
        self._deciding = Lock()
        measures.watch_part(name)

    @property
    def is_known(self) -> bool:
        """Whether there are numbers to show, or the part is known not to give any."""
        outcome = self._outcome
        return outcome is not None and time.monotonic() - outcome.begun_at < STALE_S

    def begin(self) -> "Future[None] | None":
        """Read it anew where that is due; the reading under way, if any."""
        with self._deciding:
            if self._reading is not None and not self._reading.done():
                return self._reading
            if self._outcome is not None and time.monotonic() < self._outcome.due_at:
                return None
            self._reading = in_background(self._work, name=f"read-{self.name}")
            return self._reading

    def readings(self) -> list[Reading]:
        """The last numbers and their age; none where they could not be read, or are too old."""
        outcome = self._outcome
        if outcome is None or not self.is_known:
            self._measures.count_scrape_error(self.name)  # too slow; one that failed was counted when it did
            return []
        if outcome.readings is None:
            return []
        age = Reading(SCRAPE_AGE_SECONDS, time.monotonic() - outcome.begun_at, (self.name,))
        return [*outcome.readings, age]

    def close(self) -> None:
        """Wait for a reading under way: what it reads from is about to be closed."""
        if self._reading is not None:
            wait([self._reading], timeout=CLOSING_PATIENCE_S)

    def _work(self) -> None:
        begun_at = time.monotonic()
        readings = self._read_or_none()
        ended_at = time.monotonic()
        due_at = ended_at + max(KEPT_S, PAUSE_PER_READING * (ended_at - begun_at))
        self._outcome = _Outcome(readings, begun_at, due_at)

    def _read_or_none(self) -> Sequence[Reading] | None:
        try:
            return self._read()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one part, the others are shown
            self._measures.count_scrape_error(self.name)
            if self._outcome is None or self._outcome.readings is not None:  # said once, however long it lasts
                logger.warning("metrics not read", extra={"part": self.name, "reason": str(error)})
            return None


class Scrape:
    """Everything that one service tells about itself."""

    def __init__(self, measures: Measures, reads: Mapping[str, Read]) -> None:
        self._measures = measures
        self._parts = [Part(name, read, measures) for name, read in reads.items()]
        self.threads = anyio.CapacityLimiter(THREADS)

    def answer(self, accept: str) -> tuple[bytes, str]:
        """The text and its media type, which `accept` chooses: Prometheus' own, or OpenMetrics. Blocks for a moment."""
        is_first = not all(part.is_known for part in self._parts)
        under_way = [reading for part in self._parts if (reading := part.begin()) is not None]
        wait(under_way, timeout=FIRST_PATIENCE_S if is_first else PATIENCE_S)
        readings = [reading for part in self._parts for reading in part.readings()]
        encode, media_type = choose_encoder(accept)
        return encode(Exposition(self._measures, readings)), media_type

    def close(self) -> None:
        """Wait for what is being read."""
        for part in self._parts:
            part.close()
