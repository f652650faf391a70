"""Runs that found no worker: what their event log is told, and their way back into the queue.

The run queue takes a run out, marks it as starting, and asks the launcher to start it. A run put back at once would be
taken out again a second later, with three events each time. So it rests before it goes back, longer each time, and
what is said of it is said once for each reason and once a minute.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import dagster as dg

SAY_AGAIN_S = 60.0
FIRST_REST_S, LONGEST_REST_S = 2.0, 16.0
"""Well below `start_timeout_seconds` of run monitoring, which fails a run that is starting for too long."""

RETRY_S = 5.0
"""When the database is away a run that is due stays due."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Wait:
    """How a run's search for a worker went. said_at: monotonic; rests: how often it rested for this reason."""

    reason: str
    said_at: float
    rests: int = 0


class WaitingRuns:
    """Remembers why each run waits. Pure bookkeeping, safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waits: dict[str, Wait] = {}

    def note(self, run_id: str, reason: str, *, now: float) -> tuple[bool, float]:
        """The run found no worker: whether its event log should say so, and for how many seconds it rests."""
        with self._lock:
            wait = self._waits.get(run_id)
            is_news = wait is None or wait.reason != reason
            if wait is None or is_news:
                wait = self._waits[run_id] = Wait(reason, now)
            is_told = is_news or now - wait.said_at >= SAY_AGAIN_S
            if is_told:
                wait.said_at = now
            rest_s = min(LONGEST_REST_S, FIRST_REST_S * 2**wait.rests)
            wait.rests += 1
            return is_told, rest_s

    def forget(self, run_id: str) -> None:
        """The run found a worker, or wants none any more."""
        with self._lock:
            self._waits.pop(run_id, None)


class Returns:
    """Puts runs back into the queue when they have rested, from one thread that starts with the first of them."""

    def __init__(self, put_back: Callable[[str], None]) -> None:
        """put_back: called with a run's id; where it raises, it is called again later."""
        self._put_back = put_back
        self._due: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_over = False

    def add(self, run_id: str, *, rest_s: float) -> None:
        """Put the run back after so many seconds."""
        with self._changed:
            self._due[run_id] = time.monotonic() + rest_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="fleet-returns", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Put back at once whatever still rests: the next daemon finds it in the queue."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._is_over and not self._due:
                    return
                now = time.monotonic()
                ready = [run_id for run_id, at in self._due.items() if at <= now or self._is_over]
                if not ready:
                    self._changed.wait(min(self._due.values()) - now if self._due else None)
                    continue
                for run_id in ready:
                    del self._due[run_id]
            for run_id in ready:
                self._return(run_id)

    def _return(self, run_id: str) -> None:
        try:
            self._put_back(run_id)
        except Exception:
            # Most likely the database is being restarted. Lost here, the run would be failed as one that never started.
            logger.exception("a run cannot be put back into the queue")
            with self._changed:
                if not self._is_over:
                    self._due[run_id] = time.monotonic() + RETRY_S


def put_back(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Back into the queue, at the place that it had; False where somebody ended the run meanwhile.

    The queue is read in the order in which runs were made, so that one that returns is before those made after it.
    """
    run = instance.get_run_by_id(run_id)
    if run is not None and run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, "The run was canceled while it waited for a worker.")
    if run is None or run.status is not dg.DagsterRunStatus.STARTING:
        return False
    event = dg.DagsterEvent(event_type_value=dg.DagsterEventType.PIPELINE_ENQUEUED.value, job_name=run.job_name)
    instance.report_dagster_event(event, run_id=run_id)
    return True
