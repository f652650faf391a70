"""A running stack as a context manager: everything is started in order, kept running, and stopped together."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from clip_pipeline.cli.configuration import opened_ledger, prepare_home
from clip_pipeline.cli.stack.held_file import hold
from clip_pipeline.cli.stack.plan import CODE_LOCATIONS, StackPlan
from clip_pipeline.cli.stack.ports import LOOPBACK, chosen_port, kept_or_free
from clip_pipeline.cli.stack.processes import kill_leftovers
from clip_pipeline.cli.stack.readiness import (
    service_address,
    waiting_for_code_servers,
    waiting_for_dagster,
    waiting_for_service,
)
from clip_pipeline.cli.stack.state import StackFacts, last_code_ports, running_stack, stack_file
from clip_pipeline.cli.stack.supervisor import Supervisor
from clip_pipeline.core.errors import StackError
from clip_pipeline.settings import Settings

START_TIMEOUT_S = 240.0
"""From nothing to ready. 10 s is usual on two cores; a cold disk and a busy machine take longer."""

LOOK_EVERY_S = 0.25
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A stack that is ready. Its settings name the ports that it really has."""

    settings: Settings
    supervisor: Supervisor
    service_url: str
    dagster_url: str
    seconds: float

    def serve(self) -> None:
        """Go on until the process is told to stop. Raises StackError once a part cannot be kept running."""
        while True:
            self.supervisor.wait(3600.0)


@contextmanager
def stop_signals_interrupt() -> Generator[None, None, None]:
    """SIGTERM and SIGHUP do what Ctrl-C does: KeyboardInterrupt, once; what follows the first is not disturbed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    # Ignored beforehand is what `nohup` makes of a hangup, and means it.
    heeded = [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_stop_signals() -> None:
    """From here on a second Ctrl-C no longer keeps the parts from being stopped in good order."""
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def started_stack(
    settings: Settings, *, prepare: Callable[[StackPlan], None], say: Say, waiting: Say
) -> Generator[RunningStack, None, None]:
    """The stack of one home, ready to use in the block and gone after it.

    prepare: called when this process alone holds the home, before anything starts. say: told of every event in a
    line; waiting: told what is being waited for.

    Raises:
        StackError: another stack holds the home, a port is taken, or a part does not come up.
    """
    began = time.monotonic()
    with _sole_stack(settings, say=say) as plan:
        prepare(plan)
        with opened_ledger(plan.settings):
            plan.write_files()
        with Supervisor(say=say) as supervisor:
            _start_all(plan, supervisor, waiting=waiting)
            ready = RunningStack(
                plan.settings, supervisor, service_address(plan), f"http://{LOOPBACK}:{plan.settings.dagster_port}",
                time.monotonic() - began,
            )  # fmt: skip
            try:
                yield ready
            finally:
                waiting("the parts to stop")
                _ignore_stop_signals()


@contextmanager
def _sole_stack(settings: Settings, *, say: Say) -> Generator[StackPlan, None, None]:
    """Hold the home, rid of what an earlier stack left, with ports that are free."""
    home = settings.home_path
    prepare_home(settings)
    previous = last_code_ports(home)
    held = hold(stack_file(home))
    if held is None:
        raise StackError(_already_running(settings))
    try:
        killed = kill_leftovers(home)
        if killed:
            say(f"Ended {killed} processes that an earlier stack, killed itself, had left behind.")
        plan = _planned(settings, previous=previous)
        held.write(_facts(plan))
        yield plan
    finally:
        held.release()


def _planned(settings: Settings, *, previous: Mapping[str, int]) -> StackPlan:
    port = chosen_port(
        settings.port, settings.host, what="HTTP service", option="--port", variable="CLIP_PIPELINE_PORT"
    )
    dagster_port = chosen_port(
        settings.dagster_port, LOOPBACK, what="Dagster UI", option="--dagster-port",
        variable="CLIP_PIPELINE_DAGSTER_PORT",
    )  # fmt: skip
    code_ports: dict[str, int] = {}
    for name in CODE_LOCATIONS:
        code_ports[name] = kept_or_free(previous.get(name), taken={port, dagster_port, *code_ports.values()})
    return StackPlan(settings.model_copy(update={"port": port, "dagster_port": dagster_port}), code_ports)


def _start_all(plan: StackPlan, supervisor: Supervisor, *, waiting: Say) -> None:
    """In the order in which parts need each other; what can start at once does."""
    deadline = time.monotonic() + START_TIMEOUT_S
    supervisor.start(plan.service())
    kafka = plan.kafka()
    if kafka is not None:
        supervisor.start(kafka)
    if not plan.is_instance_prepared():
        waiting("Dagster's storage to be made")
        _prepare_instance(plan)
    for program in plan.code_servers():
        supervisor.start(program)
    _wait(supervisor, [lambda: waiting_for_code_servers(plan)], deadline=deadline, waiting=waiting)
    for program in (plan.webserver(), plan.daemon()):
        supervisor.start(program)
    looks = [lambda: waiting_for_dagster(plan), lambda: waiting_for_service(plan)]
    _wait(supervisor, looks, deadline=deadline, waiting=waiting)


def _prepare_instance(plan: StackPlan) -> None:
    """Once, before anything of Dagster starts: processes that make its databases at the same time break them."""
    with subprocess.Popen(
        plan.instance_command(), env=plan.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=START_TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        lines = "\n".join(f"    {line}" for line in output.splitlines()[-12:])
        raise StackError(f"Dagster's storage below {plan.dagster_home} cannot be prepared:\n{lines}")
    plan.note_instance_prepared()


def _wait(supervisor: Supervisor, looks: Sequence[Callable[[], list[str]]], *, deadline: float, waiting: Say) -> None:
    remaining = list(looks)
    while True:
        answers = [(look, look()) for look in remaining]
        remaining = [look for look, missing in answers if missing]
        missing = [what for _, parts in answers for what in parts]
        if not remaining:
            return
        if time.monotonic() > deadline:
            raise StackError(f"not ready after {START_TIMEOUT_S:.0f} s: {', '.join(missing)}; look into the logs")
        waiting(", ".join(missing))
        supervisor.wait(LOOK_EVERY_S)


def _facts(plan: StackPlan) -> dict[str, object]:
    facts = StackFacts(os.getpid(), plan.settings.port, plan.settings.dagster_port, plan.code_ports)
    return dict(facts.as_facts())


def _already_running(settings: Settings) -> str:
    stack = running_stack(settings.home_path)
    who = f"process {stack.pid}, http://{settings.host}:{stack.port}" if stack else "another process"
    stop = f"; stop it with Ctrl-C in its terminal or `kill {stack.pid}`" if stack and stack.pid else ""
    return f"a stack of {settings.home_path} runs already ({who}){stop}, or set CLIP_PIPELINE_HOME to another folder"
