"""What runs in the child processes of `core.isolation`: the nursery that forks, and the workers it forks.

The nursery is one process that has imported what the work needs and then only forks: a fork of it costs
milliseconds, an import of torch seconds. It is started by `subprocess`, not by `multiprocessing`, whose forkserver
imports the caller's `__main__` again (a script without a guard would run twice), keeps one preload list for the
whole process and needs a resource tracker.

Nothing here survives its parent, however it dies: the nursery reads end of file on its control socket and kills its
workers, and a worker asks the kernel (Linux) to be killed with the nursery. Only the standard library is imported.
"""

import ctypes
import errno
import gc
import importlib
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

COMMAND = struct.Struct("!q")
"""Control socket: 0 asks for a worker that serves the socket sent along, pid asks to kill and reap that one. The
answer is the pid or minus errno, and the wait status."""

FRAME = struct.Struct("!I")
"""Worker sockets: length of the pickled message that follows."""

FORK = 0
_PR_SET_PDEATHSIG = 1


def serve(control_fd: int, preload: Sequence[str]) -> None:
    """Fork and reap workers on command until the parent closes its end of the control socket."""
    # Ctrl-C and a service manager's TERM reach the whole group; the parent decides when its workers stop.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for name in preload:
        with suppress(ImportError):  # the worker that needs it says so with a traceback
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    children: set[int] = set()
    with socket.socket(fileno=control_fd) as control:
        while True:
            data, received, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if len(data) < COMMAND.size:
                break
            control.sendall(COMMAND.pack(_obey(COMMAND.unpack(data)[0], received, control, children)))
    for pid in children:
        _reap(pid)


def _obey(command: int, received: Sequence[int], control: socket.socket, children: set[int]) -> int:
    if command != FORK:
        children.discard(command)
        return _reap(command)
    try:
        pid = _fork(received[0], control)
    except OSError as error:
        return -(error.errno or errno.EAGAIN)
    finally:
        os.close(received[0])
    children.add(pid)
    return pid


def _reap(pid: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        return os.waitpid(pid, 0)[1]
    return 0


def _fork(worker_fd: int, control: socket.socket) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_worker(worker_fd, control, nursery)
    return pid


def _become_worker(worker_fd: int, control: socket.socket, nursery: int) -> NoReturn:
    try:
        control.close()
        _die_with(nursery)
        with suppress(OSError):  # memory that runs out on a hostile image takes the worker, not the run
            Path("/proc/self/oom_score_adj").write_text("1000")
        with socket.socket(fileno=worker_fd) as link:
            _work(link)
    except (BrokenPipeError, ConnectionResetError):  # the parent has closed the pool in the middle of the work
        os._exit(0)
    except BaseException:  # noqa: BLE001 - a fork must never return into the nursery's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _die_with(nursery: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:
        os._exit(0)


def _work(link: socket.socket) -> None:
    """Messages out: ("broken", 0, text), ("ready", 0, None), ("start", ticket, monotonic seconds), then for the same
    ticket ("value", ticket, value) or ("error", ticket, (type name, text))."""
    setup = _receive(link)
    if setup is None:
        return
    try:
        function, initializer, initargs = pickle.loads(setup)  # noqa: S301 - both ends are this program
        if initializer is not None:
            initializer(*initargs)
    except BaseException:  # noqa: BLE001 - whatever it is, the parent raises it with this traceback
        _send(link, pickle.dumps(("broken", 0, traceback.format_exc())))
        return
    _send(link, pickle.dumps(("ready", 0, None)))
    while (message := _receive(link)) is not None:
        ticket, payload = pickle.loads(message)  # noqa: S301 - both ends are this program
        _send(link, pickle.dumps(("start", ticket, time.monotonic())))
        _send(link, _attempt(function, ticket, payload))


def _attempt(function: Callable[[Any], Any], ticket: int, payload: bytes) -> bytes:
    try:
        return pickle.dumps(("value", ticket, function(pickle.loads(payload))))  # noqa: S301 - both ends are this program
    except BaseException as error:  # noqa: BLE001 - SystemExit of an item must not end the worker either
        return pickle.dumps(("error", ticket, (type(error).__name__, str(error)[:2000])))


def _send(link: socket.socket, message: bytes) -> None:
    link.sendall(FRAME.pack(len(message)) + message)


def _receive(link: socket.socket) -> bytes | None:
    """The next message, or None when the parent is gone."""
    head = _receive_exactly(link, FRAME.size)
    return None if head is None else _receive_exactly(link, FRAME.unpack(head)[0])


def _receive_exactly(link: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = link.recv(size - len(data))
        if not part:
            return None
        data += part
    return data
