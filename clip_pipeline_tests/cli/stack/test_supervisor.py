"""Real processes die, come back, and end with the supervisor."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clip_pipeline.cli.stack import restarts
from clip_pipeline.cli.stack.processes import Child, kill_leftovers, stop_children
from clip_pipeline.cli.stack.supervisor import Supervisor
from clip_pipeline.core.errors import StackError
from clip_pipeline_tests.cli.stack.children import (
    SLEEP,
    STUBBORN,
    WITH_CHILD,
    children_of,
    program,
    runs,
    text_of,
    wait_until,
)

ROOT = Path(__file__).resolve().parents[3]
SUPERVISE = """
import sys
from pathlib import Path
from clip_pipeline.cli.stack.supervisor import Supervisor
from clip_pipeline_tests.cli.stack.children import WITH_CHILD, children_of, program, wait_until

folder = Path(sys.argv[1])
with Supervisor(say=print) as supervisor:
    supervisor.start(program(folder, WITH_CHILD))
    pid = supervisor.pids()["part"]
    wait_until(lambda: children_of(pid))
    print(pid, *children_of(pid), flush=True)
    supervisor.wait(600)
"""


@pytest.fixture(autouse=True)
def quick_restarts(monkeypatch):
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def said():
    return []


@pytest.fixture
def supervisor(said):
    with Supervisor(say=said.append, grace_s=2.0) as supervisor:
        yield supervisor


def test_a_killed_program_takes_what_it_started_with_it_and_is_started_again(supervisor, said, tmp_path):
    """A run whose code server was killed went on working while its retry worked on the same batch."""
    supervisor.start(program(tmp_path, WITH_CHILD))
    pid = supervisor.pids()["part"]
    wait_until(lambda: children_of(pid))
    (grandchild,) = children_of(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: supervisor.pids().get("part", pid) != pid)
    wait_until(lambda: not runs(grandchild))
    assert len(said) == 1
    assert said[0].startswith("part ended (killed by SIGKILL); starting it again. Log:")
    supervisor.check()


def test_a_program_that_keeps_crashing_is_given_up_with_the_end_of_its_log(supervisor, said, tmp_path):
    supervisor.start(program(tmp_path, "import sys; sys.exit('no such luck')", name="gpu"))
    with pytest.raises(
        StackError, match=r"(?s)gpu does not keep running \(last: exit status 1\).*gpu\.log.*no such luck"
    ):
        supervisor.wait(30)
    assert len(said) == restarts.MAX_CRASHES - 1
    with pytest.raises(StackError) as caught:
        supervisor.check()
    assert str(caught.value).count("no such luck") == 1


def test_a_wrong_configuration_is_not_tried_again(supervisor, said, tmp_path):
    supervisor.start(program(tmp_path, "import sys; print('error: no'); sys.exit(3)"))
    with pytest.raises(StackError, match="error: no"):
        supervisor.wait(30)
    assert said == []


def test_stopping_ends_everything_and_kills_what_does_not_listen(tmp_path):
    with Supervisor(say=print, grace_s=0.3) as supervisor:
        for name, code in (("gentle", SLEEP), ("stubborn", STUBBORN), ("parent", WITH_CHILD)):
            supervisor.start(program(tmp_path, code, name=name))
        pids = supervisor.pids()
        wait_until(lambda: children_of(pids["parent"]) and "\nup\n" in text_of(tmp_path / "stubborn.log"))
        everyone = [*pids.values(), *children_of(pids["parent"])]
    assert [pid for pid in everyone if runs(pid)] == []


def test_a_program_asked_to_stop_has_time_to_do_so(tmp_path):
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye', flush=True))); "
    with Supervisor(say=print, grace_s=20.0) as supervisor:
        supervisor.start(program(tmp_path, code + "print('up', flush=True); time.sleep(600)"))
        wait_until(lambda: "\nup\n" in text_of(tmp_path / "part.log"))
    assert text_of(tmp_path / "part.log").endswith("bye\n")


def test_a_program_that_may_finish_its_work_is_asked_alone_and_not_started_again(said, tmp_path):
    """A code server that drains waits for the runs that it started: a signal to them all would end those."""
    code = (
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        "signal.pause()"
    )
    with Supervisor(say=said.append, grace_s=2.0) as supervisor:
        supervisor.start(program(tmp_path, code))
        pid = supervisor.pids()["part"]
        wait_until(lambda: children_of(pid))
        (grandchild,) = children_of(pid)
        assert supervisor.let_finish(20.0)
        assert (runs(pid), runs(grandchild)) == (False, True)
    assert not runs(grandchild)
    assert said == []


def test_a_program_that_does_not_finish_in_time_is_stopped_like_any_other(tmp_path):
    with Supervisor(say=print, grace_s=0.3) as supervisor:
        supervisor.start(program(tmp_path, STUBBORN))
        wait_until(lambda: "\nup\n" in text_of(tmp_path / "part.log"))
        pid = supervisor.pids()["part"]
        assert not supervisor.let_finish(0.3)
        assert runs(pid)
    assert not runs(pid)


def test_children_die_with_a_killed_supervisor_and_leftovers_are_found_by_their_mark(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child, grandchild = (int(pid) for pid in parent.stdout.readline().split())
        parent.kill()
    wait_until(lambda: not runs(child))
    assert runs(grandchild)
    assert kill_leftovers(tmp_path / "other home") == 0
    assert kill_leftovers(tmp_path / "home") == 1
    assert not runs(grandchild)


def test_a_program_that_cannot_be_found_says_so(supervisor, tmp_path):
    absent = program(tmp_path, "")
    supervisor.start(type(absent)(absent.name, ["/no/such/program"], absent.environment, absent.log))
    with pytest.raises(StackError, match="/no/such/program"):
        supervisor.wait(30)


def test_a_long_log_is_put_aside_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("clip_pipeline.cli.stack.processes.LOG_BYTES", 10)
    for _ in range(2):
        stop_children([Child(program(tmp_path, "pass"))], grace_s=5.0)
    assert "starting:" in (tmp_path / "part.log.1").read_text()
    assert (tmp_path / "part.log").read_text().count("starting:") == 1
