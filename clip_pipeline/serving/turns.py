"""Work that waits for one of a few threads, and is refused where too much of it waits already."""

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException

MOST_WAITING = 64
"""Each holds an upload on disk and a connection; after so many others a client is better told to come back."""

RETRY_AFTER_S = 5

Value = TypeVar("Value")


class Turns:
    """Threads that images take turns at. For one event loop."""

    def __init__(self, threads: int) -> None:
        self._threads = anyio.CapacityLimiter(threads)
        # Counted here: the limiter counts a task some moments after it was called, when others have looked already.
        self._places = threads + MOST_WAITING

    async def take(self, work: Callable[[], Value]) -> Value:
        """What `work` returns, run in one of the threads.

        Raises a 503 problem where `MOST_WAITING` wait for them already.
        """
        if not self._places:
            raise HTTPException(
                503,
                f"{MOST_WAITING} images wait for their turn already; send this one again later",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._places -= 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._places += 1
