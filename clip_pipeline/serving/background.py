"""Work beside the requests: in a thread that one of them starts (weights, a release), or in a task of the loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from threading import Thread
from typing import Any, TypeVar

Value = TypeVar("Value")


def in_background(work: Callable[[], Value], *, name: str) -> "Future[Value]":
    """The future value of `work`, which runs in a thread of its own.

    A daemon thread, unlike those of an executor: stopping the service does not wait for a download of weights.
    """
    future: Future[Value] = Future()

    def run() -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - whoever waits for the future raises it
            future.set_exception(error)
        else:
            future.set_result(value)

    Thread(target=run, name=name, daemon=True).start()
    return future


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None], *, name: str) -> AsyncGenerator[None, None]:
    """A task of the event loop that runs as long as the context is open, and is canceled and awaited at its end."""
    task = asyncio.create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
