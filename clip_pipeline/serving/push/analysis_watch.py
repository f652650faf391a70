"""One watch of all analysis requests for all listeners. It promises what `job_watch` promises of jobs."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio.to_thread
from anyio import CapacityLimiter

from clip_pipeline.serving.background import running
from clip_pipeline.serving.push.analysis_look import TOPIC, AnalysisLook
from clip_pipeline.serving.push.events import Event, EventId
from clip_pipeline.serving.push.hub import End, Hub

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1
"""Somebody waits for the result: a look takes a millisecond, its wait adds 50 ms on average."""
PAUSE_PER_LOOK = 4
LONGEST_PAUSE_S = 5.0
FAULT_PAUSE_S = 5.0
OVERLAP_S = 60.0
"""So far back a client that connects again is told again: events of two topics do not come in the order of ids."""


class AnalysisWatch:
    """Publishes every change of a request to the hub, while anyone listens for it. `is_stopping`: as in `JobWatch`."""

    def __init__(self, look: AnalysisLook, hub: Hub, *, is_stopping: Callable[[], bool]) -> None:
        self.hub = hub
        self._look = look
        self._is_stopping = is_stopping
        self._primed = asyncio.Event()
        self._one_at_a_time = CapacityLimiter(1)
        self._replays = CapacityLimiter(4)

    async def primed(self) -> None:
        """Wait until changes are told from here on, so that what is read now leaves no gap before them."""
        await self._primed.wait()

    async def changed_since(self, last: EventId, *, until_s: float) -> AsyncGenerator[Event, None]:
        """Every request that changed after the event `last`, or not long before it."""
        pages = self._look.changed_between(last.moment_ms / 1000 - OVERLAP_S, until_s)
        while page := await anyio.to_thread.run_sync(next, pages, None, limiter=self._replays):
            for event in page:
                yield event

    async def follow(self) -> None:
        """Watch until canceled. Costs nothing while nobody listens."""
        while True:
            await self.hub.somebody(TOPIC)
            self._look.forget()
            while self.hub.listens(TOPIC):
                pause_s = await self._look_once()
                if self._is_stopping():
                    self.hub.end(End.STOPPING)
                await asyncio.sleep(pause_s)
            self._primed.clear()

    async def _look_once(self) -> float:
        """Publish what changed; returns the seconds to wait before the next look."""
        started = time.monotonic()
        try:
            changed = await anyio.to_thread.run_sync(self._look.changes, limiter=self._one_at_a_time)
        except Exception as error:  # noqa: BLE001 - a database that does not answer now may later
            logger.warning("analysis requests not readable", extra={"reason": str(error)})
            self._primed.set()  # whoever waits reads for himself, and is told that it cannot be done
            return FAULT_PAUSE_S
        for event in changed:
            self.hub.publish(event)
        self._primed.set()
        return min(max(LOOK_EVERY_S, PAUSE_PER_LOOK * (time.monotonic() - started)), LONGEST_PAUSE_S)


@asynccontextmanager
async def watching_analyses(
    look: AnalysisLook, hub: Hub, *, is_stopping: Callable[[], bool]
) -> AsyncGenerator[AnalysisWatch, None]:
    """A watch that follows the requests as long as the context is open."""
    watch = AnalysisWatch(look, hub, is_stopping=is_stopping)
    async with running(watch.follow(), name="watch-analyses"):
        yield watch
