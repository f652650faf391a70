"""Processes kept running as systemd keeps the units of deploy/systemd: as a whole, and started again 5 s after an end.

A unit is its process and all that came of it, told by a mark in their environment, as systemd tells them by their
control group.
"""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import psutil

from clip_pipeline.cli.stack.processes import Child, Program, describe_exit

MARK = "CLIP_PIPELINE_CAMPAIGN_UNIT"
RESTART_S = 5.0
"""`RestartSec` of deploy/systemd."""
_LOOK_EVERY_S = 0.1


@dataclass(slots=True)
class _Unit:
    """rest: the signal for what outlives the unit's process: SIGTERM (control-group) or SIGKILL (mixed)."""

    program: Program
    rest: signal.Signals
    child: Child | None = None
    start_at: float = 0.0
    is_held: bool = False


class Units:
    """A context manager; whatever was added runs until its end. say: told of every end that nobody asked for."""

    def __init__(self, name: str, *, say: Callable[[str], None]) -> None:
        """name: unlike that of any other set of units on this machine."""
        self._name, self._say = name, say
        self._units: dict[str, _Unit] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        # The kernel kills a child when the thread that started it ends; this one lasts as long as the units do.
        self._keeper = threading.Thread(target=self._keep, name="units", daemon=True)

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._keeper.join()

    def add(self, program: Program, *, rest: signal.Signals = signal.SIGTERM) -> None:
        """Keep a program running from now on."""
        marked = replace(program, environment=dict(program.environment) | {MARK: self._mark(program.name)})
        with self._lock:
            self._units[program.name] = _Unit(marked, rest)

    def kill(self, name: str) -> None:
        """SIGKILL the unit's own process, as the kernel does when memory runs out; it is started again."""
        with self._lock:
            child = self._units[name].child
            if child is not None:
                child.signal(signal.SIGKILL)

    def down(self, name: str) -> None:
        """SIGKILL all of the unit at once, which stays down: its host lost its power."""
        with self._lock:
            self._units[name].is_held = True
            self.signal_all(name, signal.SIGKILL)

    def up(self, name: str) -> None:
        """Start a unit that is down."""
        with self._lock:
            unit = self._units[name]
            unit.is_held, unit.start_at = False, 0.0

    def signal_all(self, name: str, number: signal.Signals) -> None:
        """Send a signal to every process of the unit, those that it makes meanwhile included."""
        told: set[int] = set()
        while new := [process for process in self.processes(name) if process.pid not in told]:
            for process in new:
                told.add(process.pid)
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def processes(self, name: str) -> list[psutil.Process]:
        """All of the unit, its own process included."""
        mark = self._mark(name)
        return [process for process in psutil.process_iter() if _has(process, mark)]

    def _mark(self, name: str) -> str:
        return f"{self._name}/{name}"

    def _keep(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            for name in list(self._units):
                with self._lock:
                    self._look_after(name, self._units[name])
        for name, unit in self._units.items():
            self.signal_all(name, signal.SIGKILL)
            while unit.child is not None and unit.child.poll() is None:
                time.sleep(_LOOK_EVERY_S)

    def _look_after(self, name: str, unit: _Unit) -> None:
        status = unit.child.poll() if unit.child else None
        if status is not None:
            self._say(f"{name} ended: {describe_exit(status)}")
            self.signal_all(name, unit.rest)
            unit.child = None
            unit.start_at = max(unit.start_at, time.monotonic() + RESTART_S) if not unit.is_held else 0.0
        elif unit.child is None and not unit.is_held and time.monotonic() >= unit.start_at:
            self.signal_all(name, signal.SIGKILL)  # what did not end in that time
            unit.child = Child(unit.program)


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # gone, or another user's
        return False
