"""One watch of all jobs for all listeners, and what a client is promised that connects again.

The promise: at least once, the latest state. Whoever connects gets the state of every open job. Whoever names the id
of the last event it has gets before that every job that was closed since, read from the ledger and not from memory,
so that a restart of the service loses nothing. A job that changed twice may be told of once, with its newer state,
and one that did not change may be told of again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio.to_thread
from anyio import CapacityLimiter

from clip_pipeline.serving.background import running
from clip_pipeline.serving.push.events import Event, EventId
from clip_pipeline.serving.push.hub import End, Hub
from clip_pipeline.serving.push.job_look import OVERLAP_S, TOPIC, JobLook

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
PAUSE_PER_LOOK = 9
"""Looking takes at most a tenth of one core, however many jobs are open and however large."""
LONGEST_PAUSE_S = 30.0
FAULT_PAUSE_S = 5.0


class JobWatch:
    """Publishes every change of a job to the hub, while anyone listens. `is_stopping`: the service is about to end."""

    def __init__(self, look: JobLook, hub: Hub, *, is_stopping: Callable[[], bool]) -> None:
        self.hub = hub
        self._look = look
        self._is_stopping = is_stopping
        self._primed = asyncio.Event()
        self._one_at_a_time = CapacityLimiter(1)
        self._replays = CapacityLimiter(4)

    async def primed(self) -> None:
        """Wait until changes are told from here on, so that what is read now leaves no gap before them."""
        await self._primed.wait()

    def open_jobs(self) -> list[Event]:
        """The state of every open job as of the last look."""
        return self._look.open_jobs()

    async def closed_since(self, last: EventId, *, until_s: float) -> AsyncGenerator[Event, None]:
        """Every job that was closed after the event `last`, or not long before it."""
        pages = self._look.closed_between(last.moment_ms / 1000 - OVERLAP_S, until_s)
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
                self._primed.set()
                await self._rest(pause_s)
            self._primed.clear()

    async def _look_once(self) -> float:
        """Publish what changed; returns the seconds to wait before the next look."""
        started = time.monotonic()
        try:
            changed = await anyio.to_thread.run_sync(self._look.changes, limiter=self._one_at_a_time)
        except Exception as error:  # noqa: BLE001 - a database that does not answer now may later
            logger.warning("jobs not readable", extra={"reason": str(error)})
            return FAULT_PAUSE_S
        for event in changed:
            self.hub.publish(event)
        took_s = time.monotonic() - started - self._look.waited_s
        return min(max(LOOK_EVERY_S, PAUSE_PER_LOOK * took_s), LONGEST_PAUSE_S)

    async def _rest(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while (left_s := until - time.monotonic()) > 0:
            if self._is_stopping():
                self.hub.end(End.STOPPING)
            await asyncio.sleep(min(left_s, LOOK_EVERY_S))


@asynccontextmanager
async def watching_jobs(look: JobLook, hub: Hub, *, is_stopping: Callable[[], bool]) -> AsyncGenerator[JobWatch, None]:
    """A watch that follows the jobs as long as the context is open."""
    watch = JobWatch(look, hub, is_stopping=is_stopping)
    async with running(watch.follow(), name="watch-jobs"):
        yield watch
