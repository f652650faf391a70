"""Which worker a run gets: the least busy, never beyond its slots, also while other runs are being started."""

import random
import threading
import time
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from clip_pipeline.core.fleet import Worker
from clip_pipeline.defs.fleet_places import Candidate, Load, Nobody, Places, choose

A, B, C = Worker("a", 1), Worker("b", 2), Worker("c", 3, slots=2)
EMBED, ANALYZE = "embed_images", "analyze_images"


class Machines:
    """Workers in memory: what each works on, and those that are silent. `jobs` holds the job of each run."""

    def __init__(self) -> None:
        self.runs: dict[str, set[str]] = {}
        self.silent: set[str] = set()
        self.jobs: dict[str, str] = {}
        self.asked: list[str] = []

    def begin(self, worker: Worker, run_id: str, job: str = EMBED) -> None:
        self.runs.setdefault(worker.address, set()).add(run_id)
        self.jobs[run_id] = job

    def ask(self, worker: Worker) -> frozenset[str] | str:
        self.asked.append(worker.address)
        if worker.address in self.silent:
            return "does not answer (UNAVAILABLE)"
        return frozenset(self.runs.get(worker.address, set()))

    def jobs_of(self, run_ids: Set[str]) -> Mapping[str, str]:
        return {run_id: self.jobs[run_id] for run_id in run_ids if run_id in self.jobs}


def found(places: Places, machines: Machines, *workers: Worker, job: str = EMBED, avoid: str | None = None) -> object:
    with places.take(Candidate("new", job, avoid), workers, jobs_of=machines.jobs_of) as taken:
        return taken.address if isinstance(taken, Worker) else taken.reason


@pytest.fixture
def machines() -> Machines:
    return Machines()


@pytest.fixture
def places(machines: Machines) -> Places:
    return Places(machines.ask)


@pytest.mark.parametrize(
    ("loads", "avoid", "chosen"),
    [
        ({"a:1": Load(0, 0), "b:2": Load(0, 0), "c:3": Load(0, 0)}, None, A),
        ({"a:1": Load(0, 1), "b:2": Load(0, 0), "c:3": Load(0, 0)}, None, B),
        ({"a:1": Load(1, 1), "b:2": Load(1, 1), "c:3": Load(1, 2)}, None, C),
        ({"a:1": Load(1, 1), "b:2": Load(1, 1), "c:3": Load(2, 2)}, None, None),
        ({"a:1": Load(0, 0), "b:2": Load(0, 1), "c:3": Load(2, 2)}, "a:1", B),
        ({"a:1": Load(0, 0), "b:2": Load(1, 1), "c:3": Load(2, 2)}, "a:1", A),
    ],
)
def test_the_least_busy_worker_with_a_slot_free_is_chosen(loads: dict[str, Load], avoid: str | None, chosen: Worker):
    assert choose([A, B, C], loads, avoid=avoid) == chosen


def test_runs_of_another_job_leave_the_slots_of_this_one_free(places: Places, machines: Machines):
    machines.begin(A, "bulk")
    assert found(places, machines, A, job=ANALYZE) == "a:1"
    assert found(places, machines, A, B, job=ANALYZE) == "b:2"
    assert "a:1 is full (1 of 1" in str(found(places, machines, A))


def test_a_silent_worker_is_passed_over_and_not_asked_again_at_once(places: Places, machines: Machines):
    machines.silent.add("a:1")
    assert found(places, machines, A, B) == "b:2"
    assert found(places, machines, A, B) == "b:2"
    assert machines.asked.count("a:1") == 1


def test_the_reason_names_every_worker_and_stays_the_same_while_nothing_changes(places: Places, machines: Machines):
    machines.silent.add("a:1")
    machines.begin(B, "one")
    reasons = {found(places, machines, A, B) for _ in range(3)}
    assert reasons == {
        "no worker is free for embed_images: a:1 does not answer (UNAVAILABLE); b:2 is full (1 of 1 slots taken)"
    }
    assert "names none" in str(found(places, machines))


def test_a_worker_that_refused_is_passed_over(places: Places, machines: Machines):
    places.shun(A, "refused a run")
    assert found(places, machines, A, B) == "b:2"
    assert "a:1 refused a run" in str(found(places, machines, A))


def test_a_run_that_its_worker_reports_although_it_is_still_being_started_counts_once(
    places: Places, machines: Machines
):
    with places.take(Candidate("r1", EMBED), [C], jobs_of=machines.jobs_of):
        machines.begin(C, "r1")
        assert found(places, machines, C) == "c:3"
        machines.begin(C, "r2")
        assert "2 of 2" in str(found(places, machines, C))


def test_a_place_is_held_until_the_start_is_over(places: Places, machines: Machines):
    with ExitStack() as starts:
        for number in range(4):
            candidate = Candidate(f"r{number}", EMBED)
            assert isinstance(starts.enter_context(places.take(candidate, [A, B, C], jobs_of=machines.jobs_of)), Worker)
        assert "c:3 is full (2 of 2" in str(found(places, machines, A, B, C))
    assert found(places, machines, A, B, C) == "a:1"


def test_no_slot_is_given_twice_to_runs_that_start_at_the_same_time(places: Places, machines: Machines):
    """Threads of the run queue launch at once; a worker knows of a run only when its start is nearly over."""
    rng = random.Random(7)
    workers, lock = [A, B, C], threading.Lock()
    broken: list[str] = []

    def launch(run_id: str) -> bool:
        with places.take(Candidate(run_id, EMBED), workers, jobs_of=machines.jobs_of) as taken:
            if isinstance(taken, Nobody):
                return False
            time.sleep(rng.random() / 200)
            with lock:
                machines.begin(taken, run_id)
                if len(machines.runs[taken.address]) > taken.slots:
                    broken.append(taken.address)
        time.sleep(rng.random() / 200)
        with lock:
            machines.runs[taken.address].discard(run_id)
        return True

    with ThreadPoolExecutor(8) as threads:
        started = list(threads.map(launch, [f"r{n}" for n in range(300)]))
    assert broken == []
    assert 4 <= sum(started) < 300
