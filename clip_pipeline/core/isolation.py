"""Calls of a function in worker processes, where a crash or a hang costs one item and nothing else.

For code that meets hostile input in C: image decoders. It protects against faults, it is no sandbox: a worker runs
with the rights of its parent and answers in pickles. How the child processes work is in `core.isolation_worker`.
"""

import os
import pickle
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.isolation_links import Message, Nursery, WorkerLink

Item = TypeVar("Item")
Value = TypeVar("Value")

MAX_BARREN_STARTS = 3
CRASHES_TO_BLAME = 2
"""An item is blamed for the second worker that dies under it: the first may have been killed from outside."""

# What may lie unread in a worker's socket: with more, a send could block the parent while that worker hangs.
_UNREAD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Crash:
    """The worker died under this item. status: as `os.waitpid` gives it."""

    status: int

    def __str__(self) -> str:
        if not os.WIFSIGNALED(self.status):
            return f"the process exited with status {os.waitstatus_to_exitcode(self.status)}"
        number = os.WTERMSIG(self.status)
        hint = " (out of memory?)" if number == signal.SIGKILL else ""
        return f"the process died of {signal.Signals(number).name}{hint}"


@dataclass(frozen=True, slots=True)
class Hang:
    """The item took longer than it may, counted from when its worker started it."""

    timeout_s: float

    def __str__(self) -> str:
        return f"no answer within {self.timeout_s:g} s"


@dataclass(frozen=True, slots=True)
class Error:
    """The function raised. kind: name of the exception's type."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Value]):
    """What became of the item with this index: the function's value, or why there is none."""

    index: int
    value: Value | Crash | Hang | Error


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class IsolatedPool(Generic[Item, Value]):
    """Worker processes that call one function; a context manager, used by one thread.

    Outcomes come in any order. A dead or hanging worker is replaced and the other items queued at it are done again,
    so the function must be safe to repeat. Workers wait for items in small backlogs of their own, so they stay busy
    while the caller does something else between two calls of `collect`.
    """

    def __init__(
        self,
        function: Callable[[Item], Value],
        *,
        timeout_s: float,
        workers: int = 0,
        backlog: int = 8,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[object] = (),
        preload: Sequence[str] = (),
        inherit_fds: Sequence[int] = (),
    ) -> None:
        """function, initializer and initargs are pickled, so they live in importable modules, not in `__main__`.

        workers: 0 for one each core; started when there is work for them. timeout_s: for one item. backlog: items that
        wait at or run in one worker. preload: modules imported once, before workers fork (the function's own always
        is). inherit_fds: descriptors that workers find open under the same numbers.
        """
        self._setup = pickle.dumps((function, initializer, tuple(initargs)))
        modules = {getattr(f, "__module__", None) for f in (function, initializer)} - {None, "__main__"}
        self._nursery = Nursery((*preload, *sorted(str(m) for m in modules)), tuple(inherit_fds))
        self._limit = workers or available_cores()
        self._timeout_s = timeout_s
        self._backlog = backlog
        self._selector = selectors.DefaultSelector()
        self._workers: list[WorkerLink] = []
        self._waiting: deque[int] = deque()
        self._payloads: dict[int, bytes] = {}
        self._crashes: dict[int, int] = {}
        self._next = 0
        self._barren = 0

    def __enter__(self) -> Self:
        self._nursery.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.link.close()
        self._workers.clear()
        self._selector.close()
        self._nursery.stop()

    @property
    def in_flight(self) -> int:
        """Items submitted whose outcome has not been collected."""
        return len(self._payloads)

    def submit(self, item: Item) -> int:
        """Queue one item and return the index that its outcome will carry: 0, 1, 2, ... The caller bounds the queue."""
        index, self._next = self._next, self._next + 1
        self._payloads[index] = pickle.dumps(item)
        self._waiting.append(index)
        self._dispatch()
        return index

    def collect(self) -> list[Outcome[Value]]:
        """The outcomes there are, waiting for the first; empty only when nothing is in flight.

        Raises:
            ClipPipelineError: workers cannot start: the initializer raises, or they keep dying before any work.
        """
        found: list[Outcome[Value]] = []
        while self._payloads and not found:
            self._dispatch()
            for key, _ in self._selector.select(self._time_left_s()):
                found += self._hear(key.data)
            found += self._expire()
        self._dispatch()
        return found

    def map(self, items: Iterable[Item]) -> Iterator[Outcome[Value]]:
        """An outcome for each of `items`, which is consumed as workers need it; index counts from 0 in this call."""
        first = self._next
        for item in items:
            self.submit(item)
            if self.in_flight >= self._limit * self._backlog:
                yield from (Outcome(o.index - first, o.value) for o in self.collect())
        while self.in_flight:
            yield from (Outcome(o.index - first, o.value) for o in self.collect())

    def _dispatch(self) -> None:
        while self._waiting:
            worker = self._roomiest()
            if worker is None:
                return
            index = self._waiting.popleft()
            worker.give(index, self._payloads[index])

    def _roomiest(self) -> WorkerLink | None:
        best = min(self._workers, key=lambda worker: len(worker.queue), default=None)
        if best is None or (best.queue and len(self._workers) < self._limit):
            return self._hire()
        full = len(best.queue) >= self._backlog or (best.queue and best.unread >= _UNREAD_BYTES)
        return None if full else best

    def _hire(self) -> WorkerLink:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                pid = self._nursery.fork(theirs)
        except EOFError:
            ours.close()
            self._start_over()
            return self._hire()
        except BaseException:
            ours.close()
            raise
        worker = WorkerLink(pid, ours)
        worker.send(self._setup)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _hear(self, worker: WorkerLink) -> list[Outcome[Value]]:
        if worker not in self._workers:  # laid off while this round of events was handled
            return []
        messages, alive = worker.read()
        found = [outcome for message in messages for outcome in self._understand(worker, message)]
        return found if alive else found + self._bury(worker)

    def _understand(self, worker: WorkerLink, message: Message) -> list[Outcome[Value]]:
        kind, index, body = message
        worker.heard_at = time.monotonic()
        if kind == "broken":
            raise ClipPipelineError(f"a worker process cannot start; what it imports or its initializer fails:\n{body}")
        if kind == "ready":
            worker.ready = True
            return []
        if kind == "start":
            worker.started = (index, body)
            return []
        worker.started = None
        worker.queue.popleft()
        worker.unread -= len(self._payloads[index])
        return [self._finish(index, body if kind == "value" else Error(*body))]

    def _finish(self, index: int, value: Value | Crash | Hang | Error) -> Outcome[Value]:
        self._barren = 0
        del self._payloads[index]
        self._crashes.pop(index, None)
        return Outcome(index, value)

    def _expire(self) -> list[Outcome[Value]]:
        now = time.monotonic()
        found: list[Outcome[Value]] = []
        for worker in [worker for worker in self._workers if worker.deadline(self._timeout_s) <= now]:
            hung = worker.started
            try:
                self._lay_off(worker)
            except EOFError:
                self._start_over()
                break
            if hung is None:
                self._count_barren("did not come to work")
            else:
                found.append(self._finish(hung[0], Hang(self._timeout_s)))
        return found

    def _bury(self, worker: WorkerLink) -> list[Outcome[Value]]:
        """The outcome, if any, of a worker's death; the items it had not finished wait again."""
        started = worker.started
        try:
            status = self._lay_off(worker)
        except EOFError:
            self._start_over()
            return []
        if started is None:
            self._count_barren(str(Crash(status)))
            return []
        index = started[0]
        self._crashes[index] = self._crashes.get(index, 0) + 1
        if self._crashes[index] < CRASHES_TO_BLAME:
            self._waiting.appendleft(index)
            return []
        return [self._finish(index, Crash(status))]

    def _lay_off(self, worker: WorkerLink) -> int:
        """Kill one worker; all its items but the started one wait again. Raises EOFError when the nursery is gone."""
        self._selector.unregister(worker.link)
        self._workers.remove(worker)
        worker.link.close()
        blamed = worker.started[0] if worker.started else None
        self._waiting.extendleft(index for index in reversed(worker.queue) if index != blamed)
        try:
            return self._nursery.reap(worker.pid)
        except EOFError:
            if blamed is not None:
                self._waiting.appendleft(blamed)
            raise

    def _start_over(self) -> None:
        """The nursery was killed and its workers with it: nobody is blamed, everything unfinished is done again."""
        for worker in self._workers:
            self._selector.unregister(worker.link)
            worker.link.close()
            self._waiting.extendleft(reversed(worker.queue))
        self._workers.clear()
        self._count_barren("died with the process that forks them")
        self._nursery.stop()
        self._nursery.start()

    def _count_barren(self, what: str) -> None:
        self._barren += 1
        if self._barren >= MAX_BARREN_STARTS:
            raise ClipPipelineError(
                f"{self._barren} worker processes in a row {what} before finishing any work; look for a memory or "
                "process limit"
            )

    def _time_left_s(self) -> float | None:
        nearest = min((worker.deadline(self._timeout_s) for worker in self._workers), default=float("inf"))
        return None if nearest == float("inf") else max(0.0, nearest - time.monotonic())
