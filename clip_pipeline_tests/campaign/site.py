"""A deployment as docs/install.md lays it out, on one machine: the units of a controller, PostgreSQL, two worker hosts.

The programs are started with the commands of deploy/systemd, and kept running as systemd would. What differs is named
here: ports, folders, one thread for each worker, and three intervals of dagster.yaml that are shortened.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from clip_pipeline.cli.stack.plan import CODE_LOCATIONS
from clip_pipeline.cli.stack.processes import Program
from clip_pipeline.core.fleet import Worker
from clip_pipeline.defs.fleet_workers import runs_on
from clip_pipeline_tests.campaign.clocks import Clock
from clip_pipeline_tests.campaign.network import Host, Network, running_network
from clip_pipeline_tests.campaign.units import Units
from clip_pipeline_tests.e2e.stack import free_port
from clip_pipeline_tests.postgres import PostgresServer, postgres_server

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
WORKER_PORT = 4100
BATCH_SIZE = 60
STORE_MIB = 384
INTERVALS: Mapping[str, int] = {"grace_seconds": 6, "poll_interval_seconds": 2, "start_timeout_seconds": 45}
"""What is shortened of deploy/dagster.yaml, so that a campaign fits into an hour."""
LOOPBACK = "127.0.0.1"
_READY_S = 240.0


@dataclass(frozen=True, slots=True)
class WorkerHost:
    """One worker. host: the machine of its own that it has, None where none could be made."""

    unit: str
    address: str
    port: int
    clock: Clock
    host: Host | None

    @property
    def key(self) -> str:
        """Its name in the fleet file and in the tags of runs."""
        return f"{self.address}:{self.port}"


@dataclass(slots=True)
class Site:
    """The running deployment. network: None where none can be made; store_is_a_disk: it can run full by itself."""

    folder: Path
    units: Units
    postgres: PostgresServer
    network: Network | None
    clock: Clock
    workers: list[WorkerHost] = field(default_factory=list[WorkerHost])
    ledger_url: str = ""
    dagster_url: str = ""
    ports: dict[str, int] = field(default_factory=dict[str, int])
    store_is_a_disk: bool = False

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['api']}"

    @property
    def graphql_url(self) -> str:
        return f"http://{LOOPBACK}:{self.ports['webserver']}/dagster/graphql"

    @property
    def environment(self) -> dict[str, str]:
        """The settings of deploy/systemd/clip-pipeline.env, as the controller has them."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLIP_PIPELINE", "DAGSTER"))}
        return kept | {
            "CLIP_PIPELINE_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "CLIP_PIPELINE_ROOTS": str(self.photos),
            "CLIP_PIPELINE_LEDGER_URL": self.ledger_url,
            "DAGSTER_POSTGRES_URL": self.dagster_url,
            "CLIP_PIPELINE_FLEET": str(self.home / "fleet.yaml"),
            "CLIP_PIPELINE_ENCODER": "builtin",
            "CLIP_PIPELINE_BATCH_SIZE": str(BATCH_SIZE),
            "CLIP_PIPELINE_DECODE_WORKERS": "1",
            "CLIP_PIPELINE_HOST": LOOPBACK,
            "CLIP_PIPELINE_PORT": str(self.ports["api"]),
            "CLIP_PIPELINE_DAGSTER_URL": f"http://{LOOPBACK}:{self.ports['webserver']}/dagster",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, *command: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """A command of the project, as an operator of the controller types it."""
        return subprocess.run(
            [sys.executable, "-m", *command], env=self.environment, cwd=self.folder, capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def answers(self) -> bool:
        """True while the service says that all of its parts are well."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def wait_ready(self) -> None:
        """Until service and workers answer. Raises TimeoutError, with where to look."""
        self._wait(self.answers, "the service is healthy")
        for worker in self.workers:
            place = Worker(worker.address, worker.port)
            self._wait(lambda place=place: not isinstance(runs_on(place), str), f"worker {worker.key} answers")

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _READY_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {_READY_S:g} s: {what}; logs: {self.folder / 'logs'}")
            time.sleep(0.2)


@contextmanager
def running_site(folder: Path, *, with_network: bool, say: Callable[[str], None]) -> Generator[Site, None, None]:
    """The deployment, ready; nothing of it runs afterwards. folder: without anything in it."""
    for name in ("home/dagster", "home/store", "photos", "logs", "clocks"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as stack:
        network = stack.enter_context(running_network()) if with_network else None
        postgres = stack.enter_context(postgres_server())
        if network is not None:
            postgres.listen_also(network.address, clients=f"{network.subnet}.0/24")
        store_is_a_disk = os.geteuid() == 0
        if store_is_a_disk:
            stack.enter_context(_disk_at(folder / "home" / "store"))
        units = stack.enter_context(Units(f"{os.getpid()}:{folder}", say=say))
        site = Site(folder, units, postgres, network, Clock(folder / "clocks" / "controller"))
        site.store_is_a_disk = store_is_a_disk
        site.ledger_url, site.dagster_url = postgres.new_empty_database(), postgres.new_empty_database()
        site.ports = {name: free_port() for name in ("api", "webserver", "code-control", "code-gpu")}
        _add_workers(site)
        _write_files(site)
        _prepare(site)
        _start(site)
        site.wait_ready()
        yield site


def _add_workers(site: Site) -> None:
    for number in range(1, WORKERS + 1):
        host = site.network.add_host() if site.network else None
        address, port = (host.address, WORKER_PORT) if host else (LOOPBACK, free_port())
        clock = Clock(site.folder / "clocks" / f"worker-{number}")
        site.workers.append(WorkerHost(f"worker-{number}", address, port, clock, host))


def _write_files(site: Site) -> None:
    document: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    document["run_launcher"]["config"]["grace_seconds"] = INTERVALS["grace_seconds"]
    for name in ("poll_interval_seconds", "start_timeout_seconds"):
        document["run_monitoring"][name] = INTERVALS[name]
    (site.home / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(document))
    fleet = {"gpu": [{"host": worker.address, "port": worker.port} for worker in site.workers]}
    (site.home / "fleet.yaml").write_text(yaml.safe_dump(fleet))
    servers = [
        {"grpc_server": {"host": LOOPBACK, "port": site.ports[f"code-{name}"], "location_name": name}}
        for name in CODE_LOCATIONS
    ]
    (site.folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": servers}))


def _prepare(site: Site) -> None:
    """What clip-pipeline-prepare.service does."""
    for command in (
        ("clip_pipeline.cli.main", "init"),
        ("dagster", "instance", "migrate"),
        ("clip_pipeline.defs.instance",),
    ):
        done = site.run(*command)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _start(site: Site) -> None:
    workspace = str(site.folder / "workspace.yaml")
    for name, module in CODE_LOCATIONS.items():
        port = str(site.ports[f"code-{name}"])
        _add(
            site, f"code-{name}", "dagster", "api", "grpc", "--module-name", module, "--host", LOOPBACK, "--port", port,
            "--location-name", name, "--use-python-environment-entry-point",
        )  # fmt: skip
    _add(site, "daemon", "dagster._daemon", "run", "--workspace", workspace)
    port = str(site.ports["webserver"])
    _add(
        site, "webserver", "dagster_webserver", "--workspace", workspace, "--host", LOOPBACK, "--port", port,
        "--path-prefix", "/dagster",
    )  # fmt: skip
    _add(site, "api", "clip_pipeline.cli.main", "api")
    for worker in site.workers:
        _add_worker(site, worker)


def _add(site: Site, name: str, *command: str) -> None:
    environment = site.environment | site.clock.environment
    log = site.folder / "logs" / f"{name}.log"
    site.units.add(Program(name, [sys.executable, "-m", *command], environment, log))


def _add_worker(site: Site, worker: WorkerHost) -> None:
    environment = site.environment | worker.clock.environment
    entry: list[str] = []
    if worker.host is not None and site.network is not None:
        # It knows the databases by the address that the controller has in the network.
        for name in ("CLIP_PIPELINE_LEDGER_URL", "DAGSTER_POSTGRES_URL"):
            environment[name] = environment[name].replace(f"@{LOOPBACK}:", f"@{site.network.address}:")
        entry = [str(shutil.which("nsenter")), *worker.host.entry[1:]]
    command = [
        *entry, sys.executable, "-m", "clip_pipeline.cli.main", "worker", "--host", worker.address, "--port",
        str(worker.port), "--gpu", "cpu", "--name", worker.unit,
    ]  # fmt: skip
    log = site.folder / "logs" / f"{worker.unit}.log"
    site.units.add(Program(worker.unit, command, environment, log), rest=signal.SIGKILL)


@contextmanager
def _disk_at(folder: Path) -> Generator[None, None, None]:
    """A small file system of its own in memory, which can run full without harm to anybody else."""
    size = f"size={STORE_MIB}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "clip-campaign", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
