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
    """The queue of one connection. key: the one thing it asks about, None for all of every topic.

    key_id: of the API key that it was opened with, None for without one.
    """

    def __init__(self, *, topic: str | None, key: str | None, most: int, key_id: str | None = None) -> None:
        self.key_id = key_id
        self._topic = topic
        self._key = key
        self._most = most
        self._waiting: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._end: End | None = None

    def offer(self, event: Event) -> None:
        """Queue an event that it asks about. One that is too far behind ends, and what waited is let go."""
        if self._end is not None or not self._wants(event):
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

    def _wants(self, event: Event) -> bool:
        return self._topic in (None, event.topic) and self._key in (None, event.key)


class Hub:
    """All listeners of one service."""

    def __init__(self, *, queued_events: int = QUEUED_EVENTS, most_listeners: int = MOST_LISTENERS) -> None:
        self._listeners: set[Listener] = set()
        self._queued_events = queued_events
        self._most_listeners = most_listeners
        self._somebody = asyncio.Event()
        self._ended: End | None = None

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    def check_room(self) -> None:
        """Raises TooManyListenersError where one more would be too many."""
        if len(self._listeners) >= self._most_listeners:
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
        listener = Listener(topic=topic, key=key, most=self._queued_events, key_id=key_id)
        if self._ended is not None:
            listener.end(self._ended)
        self._listeners.add(listener)
        self._somebody.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._somebody.clear()

    async def somebody(self) -> None:
        """Wait until anyone listens."""
        await self._somebody.wait()

    def publish(self, event: Event) -> None:
        """Hand one event to all who ask about it."""
        for listener in self._listeners:
            listener.offer(event)

    def keep(self, may_stay: Callable[[str | None], bool]) -> None:
        """Let those listeners go whose API key, by its id, may not stay."""
        for listener in self._listeners:
            if not may_stay(listener.key_id):
                listener.end(End.KEY_OVER)

    def end(self, why: End) -> None:
        """Let every listener go, and each that comes later."""
        self._ended = why
        for listener in self._listeners:
            listener.end(why)
