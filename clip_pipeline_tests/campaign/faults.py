"""The kinds of faults. Each is a block: entering it breaks something, leaving it ends that, as far as it has an end.

A process that is killed and started again by its supervisor is a fault without duration: what follows is recovery.
"""

import errno
import random
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from clip_pipeline_tests.campaign.clocks import why_no_clock
from clip_pipeline_tests.campaign.runs import Runs
from clip_pipeline_tests.campaign.site import Site, WorkerHost

JUMPS_S = (-3600, -90, 90, 3600)
CONTROLLER_JUMPS_S = (-20, 20)
"""Dagster's daemon measures with the time of day: set back, it stands still until its clock is where it was."""
RUNS_OF_WORKERS = 0.6
"""Share of the killed run processes that are taken from workers where both have some."""
_MIB = 1024**2


@dataclass(slots=True)
class Scene:
    """What a fault may choose from. taken: the workers that a fault of the same round has."""

    site: Site
    runs: Runs
    rng: random.Random
    taken: set[str] = field(default_factory=set[str])

    def take_worker(self) -> WorkerHost:
        """A worker that no other fault has, one with a run in work if there is any."""
        free = [worker for worker in self.site.workers if worker.unit not in self.taken]
        at_work = {run.worker for run in self.runs.in_work()}
        chosen = self.rng.choice([worker for worker in free if worker.key in at_work] or free)
        self.taken.add(chosen.unit)
        return chosen


Act = Callable[[Scene], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """act: gives what was hit. hold_s: from, to how many seconds it lasts; at_work: it waits for a run on a worker."""

    act: Act
    hold_s: tuple[float, float] = (0.0, 0.0)
    at_work: bool = False
    why_not: Callable[[Site], str | None] = lambda _site: None


@contextmanager
def worker_killed(scene: Scene) -> Generator[str, None, None]:
    """A worker host loses its power, and comes back after a while."""
    worker = scene.take_worker()
    scene.site.units.down(worker.unit)
    yield worker.unit
    scene.site.units.up(worker.unit)


@contextmanager
def run_killed(scene: Scene) -> Generator[str, None, None]:
    """The process of one run, on a worker or the controller, is killed; its code server lives on."""
    of_workers = [found for worker in scene.site.workers for found in run_processes(scene.site, worker.unit)]
    of_controller = [found for name in ("code-control", "code-gpu") for found in run_processes(scene.site, name)]
    groups = (of_workers, of_controller) if scene.rng.random() < RUNS_OF_WORKERS else (of_controller, of_workers)
    found = groups[0] or groups[1]
    if not found:
        yield "none was there"
        return
    unit, process = scene.rng.choice(found)
    with suppress(psutil.NoSuchProcess):
        process.kill()
    yield f"of {unit}"


@contextmanager
def worker_frozen(scene: Scene) -> Generator[str, None, None]:
    """A worker host stands still beyond the grace time, with all its processes, and goes on as if nothing had been."""
    worker = scene.take_worker()
    scene.site.units.signal_all(worker.unit, signal.SIGSTOP)
    yield worker.unit
    scene.site.units.signal_all(worker.unit, signal.SIGCONT)


@contextmanager
def postgres_restarted(scene: Scene) -> Generator[str, None, None]:
    """PostgreSQL is stopped in order, ending all sessions, and is away for a while."""
    scene.site.postgres.stop()
    yield ""
    scene.site.postgres.start()


@contextmanager
def postgres_killed(scene: Scene) -> Generator[str, None, None]:
    """PostgreSQL ends as in a crash, and recovers from its log when it is started again."""
    scene.site.postgres.kill()
    yield ""
    scene.site.postgres.start()


def unit_killed(*names: str) -> Act:
    """One of these units' processes is killed; the supervisor ends the rest of the unit and starts it again."""

    @contextmanager
    def act(scene: Scene) -> Generator[str, None, None]:
        name = scene.rng.choice(names)
        scene.site.units.kill(name)
        yield name

    return act


@contextmanager
def disk_full(scene: Scene) -> Generator[str, None, None]:
    """The file system of the store has no byte left, and is cleared after a while."""
    filler = scene.site.store / "somebody-elses-file"
    fill(filler)
    yield "store"
    filler.unlink()


@contextmanager
def clock_jump(scene: Scene) -> Generator[str, None, None]:
    """The clock of one host jumps, and back again."""
    clocks = {"controller": scene.site.clock} | {worker.unit: worker.clock for worker in scene.site.workers}
    name = scene.rng.choice(sorted(clocks))
    ahead_s = scene.rng.choice(CONTROLLER_JUMPS_S if name == "controller" else JUMPS_S)
    clocks[name].put(ahead_s)
    yield f"{name}, {ahead_s:+d} s"
    clocks[name].put(0)


@contextmanager
def network_cut(scene: Scene) -> Generator[str, None, None]:
    """A worker's cable is out: it reaches neither controller nor databases, nor they it."""
    worker, network = scene.take_worker(), scene.site.network
    assert network is not None
    assert worker.host is not None
    network.cut(worker.host)
    yield worker.unit
    network.heal(worker.host)


@contextmanager
def network_split(scene: Scene) -> Generator[str, None, None]:
    """The controller does not reach a worker, which goes on with its runs, databases and store at hand."""
    worker, network = scene.take_worker(), scene.site.network
    assert network is not None
    assert worker.host is not None
    network.shut(worker.host, port=worker.port)
    yield worker.unit
    network.open(worker.host)


def _needs_network(site: Site) -> str | None:
    return None if site.network else "there are no network namespaces, see above"


def _needs_disk(site: Site) -> str | None:
    return None if site.store_is_a_disk else "a file system for the store needs root; run the campaign with sudo"


KINDS: Mapping[str, Kind] = {
    "worker_killed": Kind(worker_killed, (3, 12), at_work=True),
    "run_killed": Kind(run_killed),
    "worker_frozen": Kind(worker_frozen, (13, 17), at_work=True),
    "postgres_restarted": Kind(postgres_restarted, (0, 4)),
    "postgres_killed": Kind(postgres_killed, (0, 4)),
    "daemon_killed": Kind(unit_killed("daemon")),
    "api_killed": Kind(unit_killed("api")),
    "webserver_killed": Kind(unit_killed("webserver")),
    "code_server_killed": Kind(unit_killed("code-control", "code-gpu")),
    "disk_full": Kind(disk_full, (4, 10), why_not=_needs_disk),
    "clock_jump": Kind(clock_jump, (4, 12), why_not=lambda _site: why_no_clock()),
    "network_cut": Kind(network_cut, (3, 17), at_work=True, why_not=_needs_network),
    "network_split": Kind(network_split, (3, 17), at_work=True, why_not=_needs_network),
}
"""Name of each kind -> what it is, in the order in which people read of them."""


def run_processes(site: Site, unit: str) -> list[tuple[str, psutil.Process]]:
    """The processes of runs: those that a code server spawned."""
    found: list[tuple[str, psutil.Process]] = []
    for process in site.units.processes(unit):
        with suppress(psutil.NoSuchProcess):
            parent = process.parent()
            is_spawned = "spawn_main" in " ".join(process.cmdline())
            if is_spawned and parent is not None and parent.cmdline()[1:5] == ["-m", "dagster", "api", "grpc"]:
                found.append((unit, process))
    return found


def fill(path: Path) -> None:
    """Write until the file system has no room for another page."""
    with path.open("wb", buffering=0) as file:
        for size in (_MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
