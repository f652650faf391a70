"""Small real programs for tests of the supervisor."""

import os
import sys
import time
from pathlib import Path

import psutil

from clip_pipeline.cli.stack.processes import MARKER, Program

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
# The grandchild is what a run is to a code server: it does not die of its parent's death.
WITH_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"


def program(tmp_path, code, *, name="part", home=None):
    """A Python program that runs `code`, marked as part of the stack of `home`."""
    marker = {MARKER: str(home or tmp_path / "home")}
    return Program(name, [sys.executable, "-c", code], os.environ | marker, tmp_path / f"{name}.log")


def wait_until(condition, *, timeout_s=20.0):
    """Poll; fails the test when it never comes true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def runs(pid):
    """True while the process is there and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_of(pid):
    """The process ids of a process's children."""
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def text_of(path: Path):
    """What the file holds so far."""
    return path.read_text() if path.exists() else ""
