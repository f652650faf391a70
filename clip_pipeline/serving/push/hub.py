"""Handing each event to whoever listens. Knows nothing of jobs, so that any topic can be published through it.

Everything here runs in the event loop, none of it waits for a client.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from enum import StrEnum

from clip_pipeline.core.errors import StackError
from clip_pipeline.serving.push.events import Event

QUEUED_EVENTS = 1_000
"""Events that a listener may be behind; about 1 MB of documents at most, shared with all who are as far behind."""
MOST_LISTENERS = 2_000


class End(StrEnum):
    """Why a listener hears no more. The text is what its client is told."""

    SLOW = "too slow: more changes waited than are kept; connect again"
    STOPPING = "the service is stopping; connect again"
    KEY_OVER = "the key of this connection is no longer valid; connect again with another one"


class TooManyListenersError(StackError):
    """No more connections are told about changes than `MOST_LISTENERS`."""


class Listener:
    """The queue of one connection. key_id: of the API key that it was opened with, None for without one."""

    def __init__(self, *, most: int, key_id: str | None = None) -> None:
        self.key_id = key_id
        self._most = most
        self._waiting: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._end: End | None = None

    def offer(self, event: Event) -> None:
        """Queue an event. A listener that is too far behind ends, and what waited is let go."""
        if self._end is not None:
            return
        if len(self._waiting) >= self._most:
            self._waiting.clear()
            self.end(End.SLOW)
            return
        self._waiting.append(event)
        self._arrived.set()

    def end(self, why: End) -> None:
        """Nothing more will come; what is queued is still handed out."""
        self._end = self._end or why
        self._arrived.set()

    async def next(self, *, within_s: float) -> Event | End | None:
        """The next event, why there are no more, or None where nothing came in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._arrived.wait()
        if self._waiting:
            event = self._waiting.popleft()
            if not self._waiting and self._end is None:
                self._arrived.clear()
            return event
        return self._end


class Hub:
    """All listeners of one service."""

    def __init__(self, *, queued_events: int = QUEUED_EVENTS, most_listeners: int = MOST_LISTENERS) -> None:
        self._interested: dict[tuple[str | None, str | None], set[Listener]] = {}
        self._queued_events = queued_events
        self._most_listeners = most_listeners
        self._arrival = asyncio.Event()
        self._ended: End | None = None

    @property
    def listeners(self) -> int:
        """How many listen now; may be asked from any thread, hence the copy."""
        return sum(len(listeners) for listeners in list(self._interested.values()))

    def listens(self, topic: str) -> bool:
        """Whether anyone asks about this topic now."""
        return any(asked in (None, topic) for asked, _ in self._interested)

    def check_room(self) -> None:
        """Raises TooManyListenersError where one more would be too many."""
        if self.listeners >= self._most_listeners:
            raise TooManyListenersError(
                f"{self._most_listeners} connections listen for changes already; try again later"
            )

    @contextmanager
    def listening(
        self, *, topic: str | None = None, key: str | None = None, key_id: str | None = None
    ) -> Generator[Listener, None, None]:
        """A listener from now on: for one key of a topic, for a topic, or for everything. key_id: see `Listener`.

        Raises:
            TooManyListenersError: there are enough.
        """
        self.check_room()
        listener = Listener(most=self._queued_events, key_id=key_id)
        if self._ended is not None:
            listener.end(self._ended)
        same = self._interested.setdefault((topic, key), set())
        same.add(listener)
        self._arrival.set()
        self._arrival = asyncio.Event()
        try:
            yield listener
        finally:
            same.discard(listener)
            if not same and self._interested.get((topic, key)) is same:
                del self._interested[topic, key]

    async def somebody(self, topic: str) -> None:
        """Wait until anyone asks about this topic."""
        while not self.listens(topic):
            await self._arrival.wait()

    async def anybody(self) -> None:
        """Wait until anyone asks about anything."""
        while not self._interested:
            await self._arrival.wait()

    def publish(self, event: Event) -> None:
        """Hand one event to all who ask about it."""
        for interest in ((event.topic, event.key), (event.topic, None), (None, None)):
            for listener in self._interested.get(interest, ()):
                listener.offer(event)

    def keep(self, may_stay: Callable[[str | None], bool]) -> None:
        """Let those listeners go whose API key, by its id, may not stay."""
        for listener in self._all():
            if not may_stay(listener.key_id):
                listener.end(End.KEY_OVER)

    def end(self, why: End) -> None:
        """Let every listener go, and each that comes later."""
        self._ended = why
        for listener in self._all():
            listener.end(why)

    def _all(self) -> list[Listener]:
        return [listener for listeners in self._interested.values() for listener in listeners]
