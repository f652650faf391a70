"""Work that a request starts, may wait for, and need not outlive: loading weights, opening a release."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

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
