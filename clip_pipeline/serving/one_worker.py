"""One isolated process that callers take turns at, started by the first of them."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Generic, TypeAlias, TypeVar

from clip_pipeline.core.inspection import reason_of
from clip_pipeline.core.isolation import Crash, Error, Hang, IsolatedPool
from clip_pipeline.core.reasons import Reason

Task = TypeVar("Task")
Value = TypeVar("Value")

RunTask: TypeAlias = Callable[[Task], Value | Reason]


class OneWorker(Generic[Task, Value]):
    """A pool of one process. Safe to share between threads."""

    def __init__(self, make: Callable[[], "IsolatedPool[Task, Value | Reason]"]) -> None:
        """make: a pool of one worker, not entered yet; called for the first task, and after a fault."""
        self._make = make
        self._turns = threading.Lock()
        self._pool: IsolatedPool[Task, Value | Reason] | None = None

    @contextmanager
    def turn(self) -> Generator[RunTask[Task, Value], None, None]:
        """The function that runs a task in the process, to this caller alone.

        It gives the value of the task, or the reason why there is none: a crash, a hang or an error too.
        """
        with self._turns:
            yield self._run

    def close(self) -> None:
        """Stop the process once its turn is over."""
        with self._turns:
            self._stop()

    def _run(self, task: Task) -> Value | Reason:
        if self._pool is None:
            self._pool = self._make().__enter__()
        try:
            self._pool.submit(task)
            (outcome,) = self._pool.collect()
        except BaseException:  # the pool may still hold this task; the next one gets another pool
            self._stop()
            raise
        return reason_of(outcome.value) if isinstance(outcome.value, Crash | Hang | Error) else outcome.value

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.__exit__(None, None, None)
            self._pool = None
