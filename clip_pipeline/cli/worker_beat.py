"""The heartbeat of a worker: every few seconds it asks each of its servers how it is, and writes that to the ledger.

In a thread of its own: a database that is away for a while, or a server that hangs, must not keep the worker from
being stopped, and a missed beat is what tells the others that something is wrong.
"""

import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial

from clip_pipeline.cli.worker_checks import Findings
from clip_pipeline.cli.worker_plan import Seat
from clip_pipeline.core.errors import ClipPipelineError, ConflictError
from clip_pipeline.core.fleet import Worker
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.deployment import own_versions
from clip_pipeline.ledger.workers import (
    BEAT_S,
    WorkerCard,
    WorkerReport,
    WorkerState,
    beat,
    leave_word,
    processed_images,
    register_worker,
)

logger = logging.getLogger(__name__)

PACE_S = 20.0
LAST_WORD_S = 5.0


@dataclass(slots=True)
class Pace:
    """Images a second of late, from counts that were looked at now and then. looks: (monotonic seconds, images)."""

    runs: tuple[str, ...] = ()
    looks: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])

    def note(self, runs: tuple[str, ...], images: int, *, now: float) -> float:
        """Take note of how many images these runs have behind them; the rate over the last `PACE_S` seconds."""
        if runs != self.runs or (self.looks and images < self.looks[-1][1]):  # other work, or begun anew
            self.runs = runs
            self.looks.clear()
        self.looks.append((now, images))
        while len(self.looks) > 2 and now - self.looks[1][0] >= PACE_S:
            self.looks.popleft()
        (since, before) = self.looks[0]
        return (images - before) / (now - since) if runs and now > since else 0.0


@dataclass(slots=True)
class _Pulse:
    """One server as its beats have it."""

    seat: Seat
    card: WorkerCard
    session: str
    pace: Pace = field(default_factory=Pace)
    said: WorkerState = WorkerState.STARTING


class Heart:
    """Beats for all servers of a worker, from `start` until `stop`."""

    def __init__(self, ledger: Ledger, seats: Sequence[tuple[Seat, Findings]]) -> None:
        """Enters every server into the ledger.

        Raises:
            ConflictError: a worker of another machine beats under the address of one of them.
        """
        self._ledger = ledger
        cards = [(seat, _card(seat, found)) for seat, found in seats]
        self._pulses = [_Pulse(seat, card, register_worker(ledger, card)) for seat, card in cards]
        self._draining = threading.Event()
        self._stopping = threading.Event()
        self._failure: ClipPipelineError | None = None
        self._is_heard = True
        self._thread = threading.Thread(target=self._beat_on, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def drain(self) -> None:
        """Say from now on that no work is taken any more."""
        self._draining.set()

    def check(self) -> None:
        """Raises what makes the worker useless: another one of another machine took its address."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Beat no more and say good-bye; a database that does not listen is not waited for."""
        self._stopping.set()
        if self._thread.ident is None:  # told to stop before it began
            self._leave()
        else:
            self._thread.join(LAST_WORD_S)

    def _beat_on(self) -> None:
        from clip_pipeline.defs.fleet_workers import runs_on  # noqa: PLC0415  2 s, while the servers load

        while not self._stopping.is_set() and self._failure is None:
            for pulse in self._pulses:
                self._told(pulse, runs_on(Worker(pulse.seat.asked_at, pulse.seat.port)))
            self._wait()
        self._leave()

    def _leave(self) -> None:
        for pulse in self._pulses:
            self._write(partial(leave_word, self._ledger, pulse.card.address, session=pulse.session))

    def _wait(self) -> None:
        """Until the next beat; at once when draining begins, which others should know."""
        deadline, was_draining = time.monotonic() + BEAT_S, self._draining.is_set()
        while not self._stopping.wait(0.1) and time.monotonic() < deadline:
            if self._draining.is_set() and not was_draining:
                return

    def _told(self, pulse: _Pulse, found: Set[str] | str) -> None:
        def tell() -> None:
            report = self._report(pulse, found)
            if not beat(self._ledger, pulse.card.address, session=pulse.session, report=report):
                pulse.session = register_worker(self._ledger, pulse.card)
                beat(self._ledger, pulse.card.address, session=pulse.session, report=report)
            if report.state is not pulse.said:
                pulse.said = report.state
                fields = {"worker": pulse.card.address, "state": str(report.state), "runs": list(report.run_ids)}
                logger.info("worker changed", extra=fields)

        self._write(tell)

    def _report(self, pulse: _Pulse, found: Set[str] | str) -> WorkerReport:
        if isinstance(found, str):
            state = WorkerState.DRAINING if self._draining.is_set() else WorkerState.STARTING
            return WorkerReport(state, detail=f"its code server {found}")
        runs = tuple(sorted(found))
        rate = pulse.pace.note(runs, processed_images(self._ledger, runs), now=time.monotonic())
        busy = WorkerState.BUSY if runs else WorkerState.READY
        return WorkerReport(WorkerState.DRAINING if self._draining.is_set() else busy, runs, round(rate, 3))

    def _write(self, say: Callable[[], object]) -> None:
        try:
            say()
        except ConflictError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001  whatever keeps a beat from being written, the work goes on
            if self._is_heard:  # said once, however long it lasts
                logger.warning("beat not written", extra={"reason": str(error)})
            self._is_heard = False
        else:
            self._is_heard = True


def _card(seat: Seat, found: Findings) -> WorkerCard:
    versions = own_versions()
    return WorkerCard(
        seat.host, seat.port, seat.name, found.gpu, platform.node(), os.getpid(), found.encoder, found.fingerprint,
        versions["version"], versions["dagster_version"],
    )  # fmt: skip
