"""The parent's ends of the child processes of `core.isolation`: the nursery that forks workers, and one worker."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.isolation_worker import COMMAND, FORK, FRAME

Message: TypeAlias = tuple[str, int, Any]
"""kind, index of the item, body: see `core.isolation_worker`."""

START_TIMEOUT_S = 120.0
"""For a worker to come to work; generous, because it may have to import on a slow disk."""

_LARGEST_ANSWER = 64 * 1024**2
_BOOT = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    "from clip_pipeline.core.isolation_worker import serve; serve(given['control'], given['preload'])"
)


@dataclass(slots=True, eq=False)
class WorkerLink:
    """One worker as its parent sees it. queue: indices of the items it holds, oldest first; unread: their bytes."""

    pid: int
    link: socket.socket
    queue: deque[int] = field(default_factory=deque[int])
    started: tuple[int, float] | None = None
    ready: bool = False
    heard_at: float = field(default_factory=time.monotonic)
    unread: int = 0
    _buffer: bytearray = field(default_factory=bytearray)

    def deadline(self, timeout_s: float) -> float:
        """When to give this worker up, by the monotonic clock."""
        if self.started is not None:
            return self.started[1] + timeout_s
        return self.heard_at + START_TIMEOUT_S if self.queue or not self.ready else float("inf")

    def give(self, index: int, payload: bytes) -> None:
        """Queue one pickled item at this worker."""
        if not self.queue:
            self.heard_at = time.monotonic()
        self.queue.append(index)
        self.unread += len(payload)
        self.send(pickle.dumps((index, payload)))

    def send(self, message: bytes) -> None:
        """Send one message; a dead worker is no error here."""
        with suppress(BrokenPipeError, ConnectionResetError):  # dead: the selector reports end of file next
            self.link.sendall(FRAME.pack(len(message)) + message)

    def read(self) -> tuple[list[Message], bool]:
        """The whole messages that have arrived, and False when the worker is dead or talks nonsense."""
        alive = True
        try:
            while part := self.link.recv(1 << 16, socket.MSG_DONTWAIT):
                self._buffer += part
            alive = False
        except BlockingIOError:
            pass
        except ConnectionResetError:
            alive = False
        messages: list[Message] = []
        while len(self._buffer) >= FRAME.size:
            size = FRAME.unpack_from(self._buffer)[0]
            if size > _LARGEST_ANSWER:
                return messages, False
            if len(self._buffer) < FRAME.size + size:
                break
            messages.append(pickle.loads(self._buffer[FRAME.size : FRAME.size + size]))  # noqa: S301 - our own worker
            del self._buffer[: FRAME.size + size]
        return messages, alive


class Nursery:
    """The parent's end of the process that forks workers. Every call raises EOFError when that process is gone."""

    def __init__(self, preload: Sequence[str], inherit_fds: Sequence[int]) -> None:
        """Nothing runs before `start`."""
        self._preload = preload
        self._inherit_fds = inherit_fds
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._has_forked = False

    def start(self) -> None:
        """Start the process; it imports what it preloads while the caller goes on."""
        ours, theirs = socket.socketpair()
        given = {"path": [os.path.abspath(p) for p in sys.path], "control": theirs.fileno(), "preload": self._preload}
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # a library that prints must not end up in the output of `--json`
                pass_fds=(theirs.fileno(), *self._inherit_fds),
                env=os.environ | one_thread,
            )
        self._control = ours
        self._has_forked = False

    def stop(self) -> None:
        """End the process and all workers; returns when it is gone."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            if not self._has_forked:  # it may still be importing, and there is nothing to wait for
                self._process.kill()
            self._process.wait()
            self._process = None

    def fork(self, worker_end: socket.socket) -> int:
        """The pid of a new worker that serves this end of a socket pair."""
        self._has_forked = True
        pid = self._ask(FORK, [worker_end.fileno()])
        if pid < 0:
            raise ClipPipelineError(f"cannot start a worker process: {os.strerror(-pid)}; raise the process limit")
        return pid

    def reap(self, pid: int) -> int:
        """Kill one worker unless it is dead already; the status that `os.waitpid` gives."""
        return self._ask(pid, [])

    def _ask(self, command: int, descriptors: list[int]) -> int:
        if self._control is None:
            raise EOFError
        try:
            socket.send_fds(self._control, [COMMAND.pack(command)], descriptors)
            answer = self._control.recv(COMMAND.size, socket.MSG_WAITALL)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError from error
        if len(answer) < COMMAND.size:
            raise EOFError
        return COMMAND.unpack(answer)[0]
