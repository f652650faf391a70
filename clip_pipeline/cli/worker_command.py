"""`clip-pipeline worker`: the code servers of a GPU host, checked before they take work, kept running, seen by others.

SIGTERM drains: the servers take no new run and end with those they work on. After `drain_s`, or at a second signal,
those runs are ended too; Dagster records them as failed and retries them elsewhere.
"""

import logging
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass

from clip_pipeline.cli.configuration import load_settings
from clip_pipeline.cli.output import console, print_json, print_table
from clip_pipeline.cli.stack.held_file import hold, last_facts
from clip_pipeline.cli.stack.processes import kill_leftovers
from clip_pipeline.cli.stack.running import stop_signals_interrupt
from clip_pipeline.cli.stack.supervisor import Supervisor
from clip_pipeline.cli.worker_beat import Heart
from clip_pipeline.cli.worker_checks import Findings, checked_apart
from clip_pipeline.cli.worker_plan import (
    Seat,
    planned_seats,
    seat_environment,
    seat_folder,
    seat_program,
    visible_devices,
)
from clip_pipeline.core.errors import StackError
from clip_pipeline.ledger.database import open_existing_ledger
from clip_pipeline.observability.logging import log_to_stderr
from clip_pipeline.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_WORDS = {True: "ok", False: "FAILED", None: "not made"}


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the command line said. gpu: auto, cpu, cuda, cuda:N or all; drain_s: for runs to end by themselves."""

    host: str
    port: int
    listen: str | None
    name: str
    gpu: str
    drain_s: float


def check(options: WorkerOptions, *, renew_canary: bool, as_json: bool) -> None:
    """Make the checks, and say what is wrong with its remedy. Raises StackError where something is."""
    settings = load_settings()
    found = [(seat, checked_apart(settings, seat, renew=renew_canary)) for seat in _seats(settings, options)]
    if as_json:
        print_json([{"address": seat.address, "ok": findings.all_hold} | asdict(findings) for seat, findings in found])
    else:
        _print(found)
    _refuse_faults(found)


def serve(options: WorkerOptions) -> None:
    """Check, then work until told to stop. Raises StackError where a check fails or a server does not keep running."""
    try:
        with stop_signals_interrupt():
            _serve(load_settings(), options)
    except KeyboardInterrupt:  # before there was anything to drain
        return


def _serve(settings: Settings, options: WorkerOptions) -> None:
    seats = _seats(settings, options)
    with _alone(settings, seats):
        found = [(seat, checked_apart(settings, seat, renew=False)) for seat in seats]
        _print(found)
        _refuse_faults(found)
        log_to_stderr(settings.log_format)
        with closing(open_existing_ledger(settings.ledger_location)) as ledger:
            _work(settings, Heart(ledger, found), seats, drain_s=options.drain_s)


@contextmanager
def _alone(settings: Settings, seats: Sequence[Seat]) -> Generator[None, None, None]:
    """Hold every address, rid of what a killed worker left behind there.

    Raises:
        StackError: a worker runs at one of them; its processes are no leftovers.
    """
    is_there = settings.home_path.is_dir() and os.access(settings.home_path, os.W_OK)
    with ExitStack() as stack:
        for seat in seats if is_there else ():  # where it is not, nothing is made in its place: a check says so
            folder = seat_folder(settings, seat)
            held = hold(folder / "worker.json")
            if held is None:
                pid = last_facts(folder / "worker.json").get("pid", "unknown")
                raise StackError(f"a worker runs at {seat.address} already (process {pid}); choose another --port")
            stack.callback(held.release)
            held.write({"pid": os.getpid()})
            killed = kill_leftovers(folder)
            if killed:
                console().print(f"Ended {killed} processes that an earlier worker {seat.address} had left behind.")
        yield


def _work(settings: Settings, heart: Heart, seats: Sequence[Seat], *, drain_s: float) -> None:
    def say(event: str) -> None:
        logger.warning("server died", extra={"event": event})

    try:
        with Supervisor(say=say) as supervisor:
            for seat in seats:
                supervisor.start(seat_program(settings, seat))
            heart.start()
            try:
                while True:
                    supervisor.wait(_LOOK_EVERY_S)
                    heart.check()
            except KeyboardInterrupt:
                _drain(supervisor, heart, drain_s=drain_s)
    finally:
        heart.stop()
    logger.info("worker stopped", extra={"pid": os.getpid()})


def _drain(supervisor: Supervisor, heart: Heart, *, drain_s: float) -> None:
    logger.info("draining", extra={"seconds": drain_s, "hint": "a second signal ends the runs under way"})
    heart.drain()
    try:
        with stop_signals_interrupt():  # once more: the first signal had all others ignored
            if not supervisor.let_finish(drain_s):
                logger.warning("runs ended", extra={"reason": f"they were not done within {drain_s:g} s"})
    except KeyboardInterrupt:
        logger.warning("runs ended", extra={"reason": "a second signal"})


def _seats(settings: Settings, options: WorkerOptions) -> list[Seat]:
    first = Seat(options.host, options.port, options.listen or options.host, options.name, device="auto", visible=None)
    needs_devices = options.gpu not in ("auto", "cpu", "cuda")
    devices = visible_devices(seat_environment(settings, first)) if needs_devices else {}
    return planned_seats(first, options.gpu, devices=devices)


def _print(found: Sequence[tuple[Seat, Findings]]) -> None:
    for seat, findings in found:
        rows = [(_WORDS[one.ok], one.name, one.detail) for one in findings.checks]
        print_table(f"Worker {seat.address}", ["", "check", "what was found"], rows)


def _refuse_faults(found: Sequence[tuple[Seat, Findings]]) -> None:
    faults = [f"{seat.address}: {one.name}" for seat, findings in found for one in findings.checks if one.ok is False]
    if faults:
        raise StackError(f"no work is taken: {', '.join(faults)} failed; what to do stands in the table above")
