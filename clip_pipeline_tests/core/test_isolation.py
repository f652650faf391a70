"""Worker processes that crash, hang and raise for real."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.isolation import Crash, Error, Hang, IsolatedPool

ROOT = Path(__file__).resolve().parents[2]
_FACTOR: int = 1


def behave(item):
    """Do what the item says; the names of the test functions below say what should come of it."""
    match item:
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(7)
        case "hang":
            while True:
                time.sleep(1)
        case "raise":
            raise ValueError("bad\nthing")
        case "exhaust":
            raise MemoryError
        case "quit":
            raise SystemExit(3)
        case "kill parent":
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        case ("die unless", path):
            if not os.path.exists(path):
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case ("kill parent unless", path):
            if not os.path.exists(path):
                Path(path).touch()
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(60)
    return item


def multiply(item):
    return item * _FACTOR


def set_factor(factor):
    global _FACTOR  # noqa: PLW0603
    _FACTOR = factor


def refuse():
    raise RuntimeError("no such device")


def die_at_once():
    os._exit(9)


def read_descriptor(number):
    return os.pread(number, 100, 0)


def process_id(_):
    return os.getpid()


def outcomes(function, items, **options):
    settings: dict[str, Any] = {"timeout_s": 30, "workers": 2} | options
    with IsolatedPool(function, **settings) as pool:
        return {outcome.index: outcome.value for outcome in pool.map(items)}


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or between opening and reading
        return False


def wait_until_dead(pids, *, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if is_alive(pid)]}"
        os.sched_yield()


def test_every_item_gets_its_own_value():
    assert outcomes(behave, range(500)) == {i: i for i in range(500)}


def test_no_items_yield_nothing_and_start_no_worker():
    assert outcomes(die_at_once, []) == {}


def test_a_crash_costs_exactly_its_item():
    items = [*range(20), "segfault", *range(20), "exit", *range(20)]
    found = outcomes(behave, items, backlog=16)
    assert found.pop(20) == Crash(signal.SIGSEGV)
    assert found.pop(41) == Crash(7 << 8)
    assert found == {i: item for i, item in enumerate(items) if i not in (20, 41)}


def test_a_crash_says_what_the_process_died_of():
    assert str(Crash(signal.SIGSEGV)) == "the process died of SIGSEGV"
    assert str(Crash(signal.SIGKILL)) == "the process died of SIGKILL (out of memory?)"
    assert str(Crash(7 << 8)) == "the process exited with status 7"


def test_a_hang_costs_exactly_its_item_and_its_timeout():
    started = time.monotonic()
    found = outcomes(behave, ["a", "hang", "b", "c", "d"], workers=1, timeout_s=0.5, backlog=5)
    assert found == {0: "a", 1: Hang(0.5), 2: "b", 3: "c", 4: "d"}
    assert 0.5 <= time.monotonic() - started < 20


def test_the_timeout_does_not_count_waiting_behind_other_items():
    with IsolatedPool(time.sleep, timeout_s=1.0, workers=1, backlog=30) as pool:
        values = [outcome.value for outcome in pool.map([0.1] * 15)]
    assert values == [None] * 15


def test_the_timeout_does_not_count_the_absence_of_the_parent():
    with IsolatedPool(behave, timeout_s=0.3, workers=1, backlog=50) as pool:
        for item in range(40):
            pool.submit(item)
        busy_until = time.monotonic() + 1.0
        while time.monotonic() < busy_until:
            pass
        found = [o for _ in range(40) if pool.in_flight for o in pool.collect()]
    assert {o.index: o.value for o in found} == {i: i for i in range(40)}


def test_exceptions_are_outcomes_with_type_and_text():
    assert outcomes(behave, ["raise", "exhaust", "quit", "fine"]) == {
        0: Error("ValueError", "bad\nthing"),
        1: Error("MemoryError", ""),
        2: Error("SystemExit", "3"),
        3: "fine",
    }


def test_a_worker_killed_from_outside_costs_nothing(tmp_path):
    items = [1, 2, ("die unless", str(tmp_path / "once")), 3, 4]
    assert outcomes(behave, items) == dict(enumerate(items))


def test_the_forking_process_killed_from_outside_costs_nothing(tmp_path):
    items = [*range(30), ("kill parent unless", str(tmp_path / "once")), *range(30)]
    assert outcomes(behave, items) == dict(enumerate(items))


def test_a_forking_process_that_always_dies_is_an_error_and_not_an_endless_loop():
    with pytest.raises(ClipPipelineError, match="in a row"):
        outcomes(behave, ["kill parent"], workers=1)


def test_all_items_crashing_still_ends():
    assert set(outcomes(behave, ["exit"] * 12).values()) == {Crash(7 << 8)}


def test_items_are_taken_only_as_workers_need_them():
    taken = []
    with IsolatedPool(behave, timeout_s=30, workers=2, backlog=4) as pool:
        for seen, _ in enumerate(pool.map(taken.append(i) or i for i in range(300))):
            assert len(taken) - seen <= 2 * 4


def test_large_items_and_values_pass():
    items = [bytes([i]) * 3_000_000 for i in range(8)]
    assert outcomes(behave, items) == dict(enumerate(items))


def test_the_initializer_runs_in_every_worker():
    assert outcomes(multiply, range(50), initializer=set_factor, initargs=(3,)) == {i: 3 * i for i in range(50)}


def test_a_failing_initializer_is_an_error_that_shows_its_traceback():
    with pytest.raises(ClipPipelineError, match="no such device"):
        outcomes(behave, [1], initializer=refuse)


def test_workers_that_die_before_any_work_are_an_error_and_not_an_endless_loop():
    with pytest.raises(ClipPipelineError, match="in a row"):
        outcomes(behave, [1], initializer=die_at_once)


def test_inherited_descriptors_are_open_in_workers(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file:
        assert outcomes(read_descriptor, [file.fileno()], inherit_fds=[file.fileno()]) == {0: b"content"}


def test_indices_count_from_zero_in_every_call_of_map():
    with IsolatedPool(behave, timeout_s=30, workers=1) as pool:
        first = [(o.index, o.value) for o in pool.map("ab")]
        second = [(o.index, o.value) for o in pool.map("cd")]
    assert (first, second) == ([(0, "a"), (1, "b")], [(0, "c"), (1, "d")])


def child_processes():
    """Other tests of this process may keep servers running."""
    return Path("/proc/thread-self/children").read_text().split()


def test_closing_leaves_no_process_and_no_descriptor():
    before, children = set(os.listdir("/proc/self/fd")), child_processes()
    workers = set(outcomes(process_id, range(200)).values())
    assert set(os.listdir("/proc/self/fd")) == before
    assert not any(is_alive(pid) for pid in workers)
    assert child_processes() == children


def test_leaving_in_the_middle_of_the_work_kills_hanging_workers():
    with IsolatedPool(behave, timeout_s=600, workers=2) as pool:
        pids = []
        for item in ("hang", "hang", "hang"):
            pool.submit(item)
        pids = [worker.pid for worker in pool._workers]
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


SCRIPT = """
import sys
from clip_pipeline.core.isolation import IsolatedPool
from clip_pipeline_tests.core.test_isolation import behave, process_id
print("script runs")
with IsolatedPool(process_id, timeout_s=600, workers=2) as ids, IsolatedPool(behave, timeout_s=600, workers=2) as pool:
    found = {outcome.value for outcome in ids.map(range(100))}
    for _ in range(8):
        pool.submit("hang")
    nurseries = [p._nursery._process.pid for p in (ids, pool)]
    print(*found, *nurseries, *(worker.pid for worker in pool._workers), flush=True)
    sys.stdin.read()
"""


def start_script(tmp_path):
    script = tmp_path / "a script without a guard.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_a_script_without_a_main_guard_runs_once_and_leaves_nothing(tmp_path):
    with start_script(tmp_path) as process:
        output, errors = process.communicate(timeout=60)
    pids = [int(pid) for pid in output.splitlines()[1].split()]
    assert (process.returncode, errors, output.count("script runs")) == (0, "", 1)
    assert len(pids) >= 5
    wait_until_dead(pids)


def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    with start_script(tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "script runs\n"
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(is_alive(pid) for pid in pids)
        process.kill()
        wait_until_dead(pids)
