"""One stack a home, on ports that are free; what stops it before anything starts."""

import os
import signal
import socket

import pytest

from clip_pipeline.cli.stack.held_file import hold
from clip_pipeline.cli.stack.ports import free_port
from clip_pipeline.cli.stack.running import started_stack, stop_signals_interrupt
from clip_pipeline.cli.stack.state import running_stack, stack_file
from clip_pipeline.core.errors import StackError
from clip_pipeline_tests.serving.world import settings_of


class ReadyToStartError(Exception):
    """Raised in place of starting anything."""


def start(settings, seen=None):
    """Begin to start a stack, up to the moment before its processes."""

    def prepare(plan):
        if seen is not None:
            seen.append((plan, running_stack(settings.home_path)))
        raise ReadyToStartError

    with started_stack(settings, prepare=prepare, say=print, waiting=print):
        raise AssertionError("not reached")


def test_a_second_stack_of_a_home_names_the_first_and_how_to_stop_it(tmp_path):
    held = hold(stack_file(tmp_path))
    assert held is not None
    held.write({"pid": 4711, "port": 8000})
    with pytest.raises(StackError, match=r"runs already \(process 4711, http://127.0.0.1:8000\).*kill 4711"):
        start(settings_of(tmp_path))
    held.release()


@pytest.mark.parametrize(("setting", "message"), [("port", "CLIP_PIPELINE_PORT"), ("dagster_port", "--dagster-port")])
def test_a_taken_port_stops_the_start_and_lets_go_of_the_home(tmp_path, setting, message):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = {"port": 0, "dagster_port": 0} | {setting: listener.getsockname()[1]}
        with pytest.raises(StackError, match=message):
            start(settings_of(tmp_path, **taken))
    with pytest.raises(ReadyToStartError):
        start(settings_of(tmp_path, port=0, dagster_port=0))


def test_the_stack_is_announced_with_real_ports_and_code_servers_keep_theirs(tmp_path):
    seen = []
    settings = settings_of(tmp_path, port=0, dagster_port=free_port())
    for _ in range(2):
        with pytest.raises(ReadyToStartError):
            start(settings, seen)
    (first, announced), (second, _) = seen
    assert announced.pid == os.getpid()
    assert announced.port == first.settings.port > 0
    assert announced.dagster_port == settings.dagster_port
    assert announced.code_ports == first.code_ports == second.code_ports
    assert len({first.settings.port, settings.dagster_port, *first.code_ports.values()}) == 4
    assert running_stack(tmp_path) is None


def stop_twice():
    with stop_signals_interrupt():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_first_stop_signal_interrupts_and_the_next_does_not_disturb():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as caught:
        stop_twice()
    assert caught.value.__context__ is None
    assert signal.getsignal(signal.SIGTERM) == before
