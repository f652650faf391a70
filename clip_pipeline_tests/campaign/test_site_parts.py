"""The parts that a site is made of: clocks that jump, units that come back, processes that are told by their mark."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from clip_pipeline.cli.stack.processes import Program
from clip_pipeline_tests.campaign import units as units_module
from clip_pipeline_tests.campaign.clocks import Clock, why_no_clock
from clip_pipeline_tests.campaign.load import until
from clip_pipeline_tests.campaign.units import Units

TELL_THE_TIME = "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"
# A program that starts another one in a session of its own, as a run does its decode workers.
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


@pytest.fixture
def units(tmp_path, monkeypatch):
    monkeypatch.setattr(units_module, "RESTART_S", 0.2)
    with Units(f"test:{tmp_path}", say=lambda _text: None) as made:
        made.add(Program("unit", [sys.executable, "-c", PARENT], dict(os.environ), tmp_path / "unit.log"))
        whole(made)
        yield made


def whole(units: Units, *, besides: frozenset[int] = frozenset()) -> frozenset[int]:
    """The ids of its two processes, once there are two others than those."""

    def look() -> frozenset[int] | None:
        found = frozenset(process.pid for process in units.processes("unit"))
        return found if len(found) == 2 and not found & besides else None

    return until(look, timeout_s=30, what="the unit has both processes")


@pytest.mark.skipif(why_no_clock() is not None, reason=str(why_no_clock()))
def test_a_clock_jumps_for_the_processes_that_have_it_while_time_passes_as_ever(tmp_path: Path):
    clock = Clock(tmp_path / "clock")
    environment = os.environ | clock.environment
    with subprocess.Popen(
        [sys.executable, "-c", TELL_THE_TIME], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def told() -> tuple[float, float]:
            """How far its clocks are from ours: that of the day, the monotonic one."""
            child.stdin.write("\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            of_day, monotonic = child.stdout.readline().split()  # type: ignore[union-attr]
            return float(of_day) - time.time(), float(monotonic) - time.monotonic()

        for ahead_s in (0, 3600, -90, 0):
            clock.put(ahead_s)
            assert told() == (pytest.approx(ahead_s, abs=5), pytest.approx(0, abs=5))
        child.stdin.close()


def test_a_unit_whose_process_was_killed_comes_back_without_what_that_had_started(units: Units):
    before = whole(units)
    units.kill("unit")
    assert whole(units, besides=before)


def test_a_unit_that_is_down_stays_so_until_it_is_told_to_come_up(units: Units):
    before = whole(units)
    units.down("unit")
    until(lambda: None if units.processes("unit") else True, timeout_s=30, what="nothing of it is left")
    with pytest.raises(TimeoutError):
        until(lambda: units.processes("unit") or None, timeout_s=1, what="it came back by itself")
    units.up("unit")
    assert whole(units, besides=before)


def test_a_signal_reaches_all_that_came_of_a_unit(units: Units):
    units.signal_all("unit", signal.SIGSTOP)
    stopped = [process.status() for process in units.processes("unit")]
    assert stopped == [psutil.STATUS_STOPPED] * 2
