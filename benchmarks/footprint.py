"""Memory and CPU time of a process with all its children, seen from outside.

Memory is the proportional set size (PSS, Linux): pages that several processes share are counted once in the sum, so
that decode workers forked from one parent, and buffers that they share, do not look like several times what they are.
"""

import resource
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SAMPLE_EVERY_S = 0.2


@dataclass(slots=True)
class Footprint:
    """The largest sum of memory seen at one moment, in bytes, and how often was looked."""

    peak_bytes: int = 0
    samples: int = 0
    stop: threading.Event = field(default_factory=threading.Event)


def own_peak_bytes() -> int:
    """Peak resident memory of this process. Not `ru_maxrss`: a child begins with what its parent had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def watched(pid: int, footprint: Footprint) -> Generator[None, None, None]:
    """Keep the peak of process `pid` and its descendants in `footprint` during the block."""
    footprint.stop.clear()
    watcher = threading.Thread(target=_watch, args=(pid, footprint), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        footprint.stop.set()
        watcher.join()


def tree_bytes(pid: int) -> int:
    """Memory of a process and its descendants now, in bytes; 0 when it is gone."""
    return sum(_pss(process) for process in _tree(pid))


def tree_cpu_s(pid: int) -> float:
    """CPU seconds that a process and its descendants, those that ended included, have used so far."""
    total = 0.0
    for process in _tree(pid):
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])  # user, system, and both of children that were waited for
    return total


def _watch(pid: int, footprint: Footprint) -> None:
    while True:
        footprint.peak_bytes = max(footprint.peak_bytes, tree_bytes(pid))
        footprint.samples += 1
        if footprint.stop.wait(SAMPLE_EVERY_S):
            return


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _pss(process: psutil.Process) -> int:
    try:
        facts = process.memory_full_info()
        return int(getattr(facts, "pss", facts.uss))
    except psutil.Error:
        return 0


def wait_until_quiet(pid: int, *, timeout_s: float = 20.0) -> None:
    """Return when the process tree has stopped computing, so that it does not disturb what is measured next."""
    deadline = time.monotonic() + timeout_s
    before = tree_cpu_s(pid)
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = tree_cpu_s(pid)
        if now - before < 0.02:
            return
        before = now
