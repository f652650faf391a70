"""The supervisor: starts programs, starts those again that die, and stops all of them together."""

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from clip_pipeline.cli.stack.processes import Child, Program, describe_exit, last_lines, stop_children
from clip_pipeline.cli.stack.restarts import CrashHistory
from clip_pipeline.core.errors import StackError

LOOK_EVERY_S = 0.2
GRACE_S = 8.0


@dataclass(slots=True)
class _Post:
    """One program and whoever does its work at the moment: nobody between a death and the next start."""

    program: Program
    child: Child
    is_filled: bool = True
    start_at: float = 0.0
    history: CrashHistory = field(default_factory=CrashHistory)


class Supervisor:
    """A context manager that keeps programs running while its block does.

    say: told in a line of every death and restart, from another thread.
    """

    def __init__(self, *, say: Callable[[str], None], grace_s: float = GRACE_S) -> None:
        self._say = say
        self._grace_s = grace_s
        self._posts: dict[str, _Post] = {}
        self._failure: StackError | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, program: Program) -> None:
        """Start a program and keep it running from now on."""
        with self._lock:
            self._posts[program.name] = _Post(program, Child(program))

    def check(self) -> None:
        """Raises StackError once a program was given up, with the end of its log."""
        if self._failure is not None:
            raise self._failure

    def wait(self, seconds: float) -> None:
        """Let time pass; raises StackError as soon as a program was given up."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, LOOK_EVERY_S))

    def pids(self) -> dict[str, int]:
        """The process id of each program that runs."""
        with self._lock:
            return {name: post.child.pid for name, post in self._posts.items() if post.is_filled}

    def let_finish(self, seconds: float) -> bool:
        """Ask each program, not what it started, to end when its work is done; True where all did in that time.

        Nothing is started again from here on.
        """
        self._stopping.set()
        with self._lock:
            children = [post.child for post in self._posts.values() if post.is_filled]
        for child in children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(child.poll() is None for child in children):
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_EVERY_S)
        return True

    def stop(self) -> None:
        """Stop everything, in good order where it takes less than the grace. Returns when nothing runs any more."""
        self._stopping.set()
        with self._lock:
            children = [post.child for post in self._posts.values()]
            self._posts.clear()
        stop_children(children, grace_s=self._grace_s)
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            with self._lock:
                for post in self._posts.values():
                    self._look_after(post, now=time.monotonic())
        # The kernel kills the children that this thread started when it ends: not before they had time to stop.
        self._stopped.wait()

    def _look_after(self, post: _Post, *, now: float) -> None:
        if self._stopping.is_set() or self._failure is not None:
            return
        status = post.child.poll() if post.is_filled else None
        if status is not None:
            self._bury(post, status, now=now)
        elif not post.is_filled and now >= post.start_at:
            self._fill(post)

    def _fill(self, post: _Post) -> None:
        try:
            post.child, post.is_filled = Child(post.program), True
        except OSError as error:
            self._failure = StackError(
                f"{post.program.name} cannot be started again: {error}; look for a process limit"
            )

    def _bury(self, post: _Post, status: int, *, now: float) -> None:
        # Runs of a dead code server would go on working while others are started for the same batch.
        post.child.signal_group(signal.SIGKILL)
        post.is_filled = False
        program = post.program
        pause_s = post.history.note(status, now=now)
        if pause_s is None:
            self._failure = StackError(_given_up(program, status))
            return
        post.start_at = now + pause_s
        self._say(f"{program.name} ended ({describe_exit(status)}); starting it again. Log: {program.log}")


def _given_up(program: Program, status: int) -> str:
    end = "\n".join(f"    {line}" for line in last_lines(program.log))
    return (
        f"{program.name} does not keep running (last: {describe_exit(status)}) and was given up; its log is "
        f"{program.log} and ends with:\n{end}"
    )
