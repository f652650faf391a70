"""One process of the stack with everything it starts: a group of its own that is started and killed as a whole."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from clip_pipeline.core.errors import StackError

MARKER = "CLIP_PIPELINE_STACK"
"""In the environment of every process of a stack, with the home as its value: how leftovers are told from others."""

LOG_BYTES = 10 * 1024**2
_POLL_S = 0.05
_LOG_HEADER = "---"
_JSON_LOG_HEADER = '{"event": "starting program"'

# PR_SET_PDEATHSIG is 1. A small program of its own, because code between fork and exec in a process with threads can
# deadlock. Should the parent have died before the call, nothing would ever be signalled: hence the look at its pid.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"cannot start {sys.argv[2]}: {error.strerror}")
"""


@dataclass(frozen=True, slots=True)
class Program:
    """What to start. command: an absolute executable and its arguments; log: where its output is appended."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path


class Child:
    """A started program, leader of its own session and process group."""

    def __init__(self, program: Program) -> None:
        """Starts it. It is killed (Linux) when the thread that started it ends, so that must be a lasting one."""
        self.program = program
        _rotate(program.log)
        with program.log.open("ab") as log:
            log.write(f"{_log_header(program)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *program.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(program.environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, and id of the group."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status as `subprocess` has it (negative: a signal), or None while it runs."""
        return self._process.poll()

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the program and all it started; nothing happens where none is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone; nothing happens where it ended."""
        self._process.send_signal(number)

    def is_group_alive(self) -> bool:
        """True while the program, or anything it started that stayed in its group, runs."""
        if self.poll() is None:
            return True
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        # Where nobody reaps orphans (a container without an init), dead ones keep the group's id in use.
        return any(_is_running_in(process, self.pid) for process in psutil.process_iter())


def stop_children(children: Sequence[Child], *, grace_s: float) -> None:
    """Ask all of them to end, wait so long, kill what is left. Returns when every group is gone."""
    for child in children:
        child.signal_group(signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(child.is_group_alive() for child in children) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for child in children:
        child.signal_group(signal.SIGKILL)
    while any(child.is_group_alive() for child in children):
        time.sleep(_POLL_S)


def kill_leftovers(home: Path) -> int:
    """Kill whatever a stack of this home, killed itself before it could stop them, left running; returns how many.

    Raises:
        StackError: some of them do not die.
    """
    leftovers = [process for process in psutil.process_iter() if _belongs_to(process, home)]
    for process in leftovers:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, alive = psutil.wait_procs(leftovers, timeout=10)
    stubborn = [process.pid for process in alive if _status(process) != psutil.STATUS_ZOMBIE]
    if stubborn:
        raise StackError(f"processes {stubborn} of an earlier stack do not end; kill them by hand")
    return len(leftovers)


def last_lines(log: Path, *, most: int = 12) -> list[str]:
    """The end of what a program logged since it was last started, for an error message."""
    lines: list[str] = []
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
        for line in file.read().decode(errors="replace").splitlines():
            lines = [] if line.startswith((_LOG_HEADER, _JSON_LOG_HEADER)) else [*lines, line]
    return lines[-most:]


def describe_exit(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _belongs_to(process: psutil.Process, home: Path) -> bool:
    if process.pid == os.getpid():
        return False
    try:
        return process.environ().get(MARKER) == str(home) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # another user's, or gone
        return False


def _is_running_in(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _status(process: psutil.Process) -> str:
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return psutil.STATUS_ZOMBIE


def _log_header(program: Program) -> str:
    """The line that separates what a program logs from what it logged before, in the format of its log."""
    if program.environment.get("CLIP_PIPELINE_LOG_FORMAT") != "json":
        return f"{_LOG_HEADER} {time.strftime('%Y-%m-%d %H:%M:%S')} starting: {' '.join(program.command)}"
    stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    header = {"event": "starting program", "program": program.name, "command": list(program.command)}
    return json.dumps(header | {"level": "info", "logger": "clip_pipeline.stack", "timestamp": stamp})


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
