"""Submissions of any size: small ones in a thread, large ones in a process of their own. No web framework here.

Parsing ten megabytes of paths and registering them hold the interpreter's lock for tens of milliseconds at a time, and
every other request with it. A process that is started for one submission costs half a second and no memory between
two; it cannot hang around, since it ends with its pipe; and killing it at any moment leaves the whole job or nothing,
as one transaction does. `core.isolation` is for other work: it repeats an item whose worker died, and a submission
without an idempotency key must not be repeated.
"""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import IO, TypeAlias

import anyio
import anyio.to_thread

from clip_pipeline.core.errors import ClipPipelineError, StackError
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.registration import Registration
from clip_pipeline.serving.body_models import parsed
from clip_pipeline.serving.submission_process import Order, Outcome
from clip_pipeline.serving.submissions import AddImagesBody, submit
from clip_pipeline.settings import Settings

SMALL_BYTES = 256 * 1024
"""Two to three thousand paths: registered in less time than a process takes to start."""

PROCESSES = 2
"""Writers of the ledger queue anyway: one may check its paths while the other writes. Further ones wait."""

_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from clip_pipeline.serving.submission_process import main; main()"

Body: TypeAlias = IO[bytes]
"""The JSON of a submission as a file: in memory while it is small, with a descriptor once it is asked for one."""


@dataclass(slots=True)
class Registrar:
    """Registers submissions. `close` ends those under way: each is registered as a whole by then, or not at all."""

    ledger: Ledger
    settings: Settings
    threads: anyio.CapacityLimiter
    _processes: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(PROCESSES))
    _running: set["subprocess.Popen[bytes]"] = field(default_factory=set["subprocess.Popen[bytes]"])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_closed: bool = False

    async def submit(self, body: Body, *, idempotency_key: str | None = None) -> Registration:
        """Parse, check and register one submission; see `submissions.submit`.

        Raises:
            UnfitBodyError: it is no JSON of this form.
            RefusedPathsError: a path is refused; nothing is registered.
            ConflictError: the idempotency key was used for another request.
            StackError: the process ended before it answered.
        """

        def in_thread() -> Registration | None:
            body.seek(0)
            content = body.read()
            asked = parsed(lambda: AddImagesBody.model_validate_json(content))
            if asked.recursive_dirs:  # few bytes, any number of files
                return None
            return submit(self.ledger, self.settings, asked, idempotency_key=idempotency_key)

        if body.seek(0, os.SEEK_END) <= SMALL_BYTES:
            done = await anyio.to_thread.run_sync(in_thread, limiter=self.threads)
            if done is not None:
                return done
        outcome = await anyio.to_thread.run_sync(
            lambda: self._in_process(body, idempotency_key), limiter=self._processes
        )
        if isinstance(outcome, ClipPipelineError):
            raise outcome
        return outcome

    def close(self) -> None:
        """End every process; whoever waits for one is told."""
        with self._lock:
            self._is_closed = True
            for process in self._running:
                process.kill()

    def _in_process(self, body: Body, idempotency_key: str | None) -> Outcome:
        body.seek(0)
        descriptor = body.fileno()
        order = pickle.dumps(Order(self.settings, descriptor, idempotency_key))
        process = self._started(descriptor)
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # dead already: it answers with the end of its output
                process.stdin.write(order)
                process.stdin.flush()
            answer = process.stdout.read()
        finally:
            with self._lock:
                self._running.discard(process)
            with contextlib.suppress(BrokenPipeError):
                process.__exit__(None, None, None)  # closes the pipes, at whose end it ends, and waits for that
        return pickle.loads(answer) if answer else _fault(process.returncode)  # noqa: S301 - our own process

    def _started(self, descriptor: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", _BOOT, *(os.path.abspath(path) for path in sys.path)]
        with self._lock:  # or one started while `close` looks would be left over
            if self._is_closed:
                raise StackError("the service is stopping and nothing was registered; send the request again")
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(descriptor,), bufsize=-1
            )
            self._running.add(process)
        return process


def _fault(status: int) -> ClipPipelineError:
    """The error of a process that ended without an answer; below zero, `status` is the signal that killed it."""
    if status > 0:
        return ClipPipelineError("registering failed, nothing was registered; the log of the service says why")
    return StackError(
        "the process that registers these paths was killed before it answered, so that all of them are registered or "
        "none; send the request again: with an Idempotency-Key it gives the job there is, without one the images under "
        "way are counted as known"
    )
