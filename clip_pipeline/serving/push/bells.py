"""Bells that ring in the event loop when the ledger announces a change, so that nobody has to look for it."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import anyio.to_thread

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.notifications import Notifications, Topic, announces_changes


class Bell:
    """Rings when something may have changed. is_wired: whether anything would ring it now."""

    def __init__(self, is_wired: Callable[[], bool]) -> None:
        self._is_wired = is_wired
        self._rung = asyncio.Event()

    @property
    def is_wired(self) -> bool:
        """Whether a change would ring it. Where not, whoever waits has to look often."""
        return self._is_wired()

    def ring(self) -> None:
        """Wake who waits, or else who waits next."""
        self._rung.set()

    def silence(self) -> None:
        """Forget that it rang: call it before looking, so that what changes meanwhile rings again."""
        self._rung.clear()

    async def rings(self, within_s: float) -> bool:
        """Wait until it rings or the time is over; whether it rang."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._rung.wait()
        return self._rung.is_set()


@asynccontextmanager
async def wired_bells(ledger: Ledger, *, on_keys: Callable[[], None]) -> AsyncGenerator[Mapping[Topic, Bell], None]:
    """One bell for each topic, wired to the ledger as long as the context is open; `on_keys` is called in the loop.

    A ledger that announces nothing (SQLite) gives bells that never ring.
    """
    if not announces_changes(ledger):
        yield {topic: Bell(lambda: False) for topic in Topic}
        return
    loop = asyncio.get_running_loop()

    def hear(topic: Topic) -> None:
        loop.call_soon_threadsafe(bells[topic].ring)
        if topic is Topic.KEYS:
            loop.call_soon_threadsafe(on_keys)

    notifications = Notifications(ledger, hear)
    bells = {topic: Bell(lambda: notifications.is_live) for topic in Topic}
    notifications.start()
    try:
        yield bells
    finally:
        await anyio.to_thread.run_sync(notifications.close)
