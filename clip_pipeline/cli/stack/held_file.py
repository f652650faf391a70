"""A JSON file that speaks of a running process and is believed only while that process holds the lock on it.

The kernel lets go of the lock when the process dies, however it dies, so nothing stale is ever believed.
"""

import fcntl
import json
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

Facts: TypeAlias = Mapping[str, Any]

_ATTEMPTS = 20
_PAUSE_S = 0.05


class HeldFile:
    """A file whose lock this process holds until `release`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, facts: Facts) -> None:
        """Replace what the file says."""
        content = json.dumps(facts).encode()
        os.pwrite(self._descriptor, content, 0)
        os.ftruncate(self._descriptor, len(content))

    def release(self) -> None:
        """Let go of the lock. What the file says stays, for whoever wants to know what was there last."""
        os.close(self._descriptor)


def hold(path: Path) -> HeldFile | None:
    """The file at `path`, locked by this process; None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    # Readers lock it too, for microseconds.
    for _ in range(_ATTEMPTS):
        if _try_lock(descriptor, fcntl.LOCK_EX):
            return HeldFile(descriptor)
        time.sleep(_PAUSE_S)
    os.close(descriptor)
    return None


@contextmanager
def announced(path: Path, facts: Facts) -> Generator[None, None, None]:
    """Say `facts` in the file while the block runs; where another process already does, it goes on doing so."""
    held = hold(path)
    try:
        if held is not None:
            held.write(facts)
        yield
    finally:
        if held is not None:
            held.release()


def facts_of_holder(path: Path) -> Facts | None:
    """What the process that holds the file says, or None where no process does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return None if _try_lock(descriptor, fcntl.LOCK_SH) else last_facts(path)
    finally:
        os.close(descriptor)


def last_facts(path: Path) -> Facts:
    """What was written last, by whomever; empty where there is nothing that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
