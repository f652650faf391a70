"""One watch of a topic for all listeners, and what a client is promised that connects again.

The promise: at least once, the latest state. Whoever listens to everything gets the state of every open job. Whoever
names the id of the last event it has gets before that every job that was closed since and every request that changed,
read from the ledger and not from memory: a restart of the service loses nothing, and another service goes on where the
first one ended. What changed twice may be told of once, with its newer state, and what did not change again.

A watch looks when the ledger announces a change, and now and then without: announcements save waiting, nothing depends
on them.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from clip_pipeline.serving.background import running
from clip_pipeline.serving.push.bells import Bell
from clip_pipeline.serving.push.events import Event, EventId
from clip_pipeline.serving.push.hub import End, Hub

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

FAULT_PAUSE_S = 5.0
STOPPING_ASKED_EVERY_S = 0.25
PER_WAIT = 2
"""A look that waits for the database is followed by a pause twice as long: the work there is somebody's too."""
OVERLAP_S = 60.0
"""So far back a client that connects again is told again: a transaction writes a time and commits later, and events of
two topics do not come in the order of ids."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often to look, in seconds: while the ledger announces no changes, and while it does.

    per_look: a look is followed by a pause that many times as long as it computed here, and `PER_WAIT` times as long as
    it took, up to longest_s, whatever is announced.
    """

    every_s: float
    announced_s: float
    per_look: int
    longest_s: float


class Look(Protocol):
    """How one topic is read. Blocks; for one thread at a time, except `between`."""

    topic: str
    pace: Pace

    @property
    def waited_s(self) -> float:
        """How long the last look waited for others: no work of this machine."""
        ...

    def forget(self) -> None:
        """Begin anew: at the next look nothing has changed."""
        ...

    def changes(self) -> list[Event]:
        """The latest state of each thing that changed since the last look; none at the first."""
        ...

    def standing(self) -> list[Event]:
        """What whoever begins to listen to everything is told first, as of the last look."""
        ...

    def between(self, since_s: float, until_s: float) -> Iterator[list[Event]]:
        """What changed in that time, in order, some at a time so that memory does not grow with it."""
        ...


class Watch:
    """Publishes every change of a topic to the hub, while anyone listens.

    bell: rings when there may be one; is_stopping: the service is about to end.
    """

    def __init__(self, look: Look, hub: Hub, *, bell: Bell, is_stopping: Callable[[], bool]) -> None:
        self.hub = hub
        self._look = look
        self._bell = bell
        self._is_stopping = is_stopping
        self._primed = asyncio.Event()
        self._one_at_a_time = CapacityLimiter(1)
        self._replays = CapacityLimiter(4)

    async def primed(self) -> None:
        """Wait until changes are told from here on, so that what is read now leaves no gap before them."""
        await self._primed.wait()

    def standing(self) -> list[Event]:
        """What whoever begins to listen to everything is told first."""
        return self._look.standing()

    async def told_since(self, last: EventId, *, until_s: float) -> AsyncGenerator[Event, None]:
        """Everything that changed after the event `last`, or not long before it."""
        pages = self._look.between(last.moment_ms / 1000 - OVERLAP_S, until_s)
        while page := await anyio.to_thread.run_sync(next, pages, None, limiter=self._replays):
            for event in page:
                yield event

    async def follow(self) -> None:
        """Watch until canceled. Costs nothing while nobody listens."""
        topic = self._look.topic
        while True:
            await self.hub.somebody(topic)
            self._look.forget()
            while self.hub.listens(topic):
                self._bell.silence()
                pause_s = await self._look_once()
                if pause_s is None:
                    await self._pause(FAULT_PAUSE_S, _sleep)
                else:
                    await self._rest(pause_s)
            self._primed.clear()

    async def _look_once(self) -> float | None:
        """Publish what changed; returns the least pause after that in seconds, None where it cannot be read."""
        begun = time.monotonic()
        try:
            changed, computed_s = await anyio.to_thread.run_sync(
                _timed(self._look.changes), limiter=self._one_at_a_time
            )
        except Exception as error:  # noqa: BLE001 - a database that does not answer now may later
            logger.warning("changes not readable", extra={"topic": self._look.topic, "reason": str(error)})
            return None
        else:
            took_s = time.monotonic() - begun - self._look.waited_s
            for event in changed:
                self.hub.publish(event)
            pace = self._look.pace
            return min(max(pace.per_look * computed_s, PER_WAIT * took_s), pace.longest_s)
        finally:
            self._primed.set()  # after a fault too: whoever waits reads for himself, and is told that it cannot be done

    async def _rest(self, pause_s: float) -> None:
        """Wait for the next look: a while in any case, then until there is something to see."""
        await self._pause(pause_s, _sleep)
        pace = self._look.pace
        await self._pause((pace.announced_s if self._bell.is_wired else pace.every_s) - pause_s, self._bell.rings)

    async def _pause(self, seconds: float, wait: Callable[[float], Awaitable[bool]]) -> None:
        until = time.monotonic() + seconds
        is_over = False
        while not is_over and (left_s := until - time.monotonic()) > 0:
            if self._is_stopping():
                self.hub.end(End.STOPPING)
            is_over = await wait(min(left_s, STOPPING_ASKED_EVERY_S))


def _timed(work: Callable[[], Value]) -> Callable[[], tuple[Value, float]]:
    """The same work, which tells with its result how many seconds of the processor it took."""

    def timed() -> tuple[Value, float]:
        begun = time.thread_time()
        return work(), time.thread_time() - begun

    return timed


async def _sleep(seconds: float) -> bool:
    await asyncio.sleep(seconds)
    return False


@asynccontextmanager
async def watching(look: Look, hub: Hub, *, bell: Bell, is_stopping: Callable[[], bool]) -> AsyncGenerator[Watch, None]:
    """A watch that follows its topic as long as the context is open."""
    watch = Watch(look, hub, bell=bell, is_stopping=is_stopping)
    async with running(watch.follow(), name=f"watch-{look.topic}"):
        yield watch
