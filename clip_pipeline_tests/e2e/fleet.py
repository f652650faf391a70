"""A fleet on this machine: a whole stack, and workers of its own beside it that the runs of location `gpu` start on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml

from clip_pipeline.core.fleet import Worker
from clip_pipeline.defs.fleet import WORKER_TAG
from clip_pipeline.defs.fleet_workers import runs_on
from clip_pipeline.defs.work import WORK_TAG
from clip_pipeline_tests.e2e.stack import Stack, free_port

FINAL = {"SUCCESS", "FAILURE", "CANCELED"}
RUNS = """
query Runs($filter: RunsFilter!) {
  runsOrError(filter: $filter) {
    ... on Runs { results { runId status parentRunId startTime endTime tags { key value } } }
  }
}
"""
MESSAGES = """
query Messages($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events { ... on MessageEvent { message } } } }
}
"""
TERMINATE = """
mutation End($ids: [String!]!) {
  terminateRuns(runIds: $ids) {
    __typename ... on TerminateRunsResult { terminateRunResults { __typename } }
  }
}
"""


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run as Dagster's API shows it."""

    run_id: str
    status: str
    worker: str | None
    parent: str | None
    work: tuple[str, ...]


@dataclass
class Fleet:
    """A stack and the workers that were started for it."""

    stack: Stack
    file: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, subprocess.Popen[bytes]])

    @property
    def addresses(self) -> list[str]:
        return list(self.processes)

    def start_worker(self, address: str | None = None) -> str:
        """Start a code server with one thread, on `address` where it was before; returns its address."""
        port = int(address.rpartition(":")[2]) if address else free_port()
        environment = self.stack.environment | {
            "DAGSTER_HOME": str(self.stack.home / "dagster"),
            "OMP_NUM_THREADS": "1",
            "CLIP_PIPELINE_DECODE_WORKERS": "1",
        }
        command = [
            sys.executable, "-m", "dagster", "api", "grpc", "--module-name", "clip_pipeline.gpu_definitions",
            "--host", "127.0.0.1", "--port", str(port), "--location-name", "gpu",
            "--use-python-environment-entry-point",
        ]  # fmt: skip
        with (self.stack.home / f"worker-{port}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        worker = Worker("127.0.0.1", port)
        self.processes[worker.address] = process
        self.stack.wait(lambda: not isinstance(runs_on(worker), str), f"worker {worker.address} answers", 240)
        return worker.address

    def write_file(self, addresses: Sequence[str]) -> None:
        """Name these workers in the fleet file, which is replaced as an editor does it."""
        workers = [{"host": a.rpartition(":")[0], "port": int(a.rpartition(":")[2])} for a in addresses]
        beside = self.file.with_suffix(".new")
        beside.write_text(yaml.safe_dump({"gpu": workers}))
        os.replace(beside, self.file)

    def signal_worker(self, address: str, number: signal.Signals) -> None:
        """Send a signal to the worker and to all it started: what the end, or a freeze, of its host comes to."""
        for process in self._tree(address):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill_worker(self, address: str) -> None:
        self.signal_worker(address, signal.SIGKILL)
        self.processes.pop(address).wait(timeout=30)

    def run_process(self, address: str) -> psutil.Process | None:
        """The process of the run that the worker works on."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.processes[address].pid).children():
                if "spawn_main" in " ".join(child.cmdline()):
                    return child
        return None

    def stop(self) -> None:
        for address in self.addresses:
            with suppress(psutil.NoSuchProcess):
                self.kill_worker(address)

    def submit(self, paths: Sequence[Path]) -> str:
        """Add images over REST; returns the id of the job."""
        body = {"image_paths": [str(path) for path in paths]}
        answer = httpx.post(self.stack.url + "/api/v1/index/add-images", json=body, timeout=60)
        return str(answer.raise_for_status().json()["job_id"])

    def runs(self, job_id: str, job: str = "embed_images") -> list[SeenRun]:
        """The runs of a Dagster job that serve one of ours, oldest first."""
        chosen = {"pipelineName": job, "tags": [{"key": f"clip/job/{job_id}", "value": "1"}]}
        found = self.stack.graphql(RUNS, filter=chosen)["runsOrError"]["results"]
        seen: list[SeenRun] = []
        for run in found:
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            work = tuple(tags.get(WORK_TAG, "").split())
            seen.append(SeenRun(run["runId"], run["status"], tags.get(WORKER_TAG), run["parentRunId"], work))
        return seen[::-1]

    def messages(self, job_id: str) -> list[str]:
        """What the event logs of the job's runs say, run by run."""
        answers = [self.stack.graphql(MESSAGES, id=run.run_id)["logsForRun"]["events"] for run in self.runs(job_id)]
        return [event["message"] for events in answers for event in events if "message" in event]

    def working(self, job_id: str) -> dict[str, SeenRun]:
        """Address of each worker with a run of the job in work -> that run."""
        return {run.worker: run for run in self.runs(job_id) if run.status == "STARTED" and run.worker}

    def terminate(self, run_id: str) -> float:
        """Ask the webserver to end a run; returns the seconds until it had ended."""
        began = time.monotonic()
        self.stack.graphql(TERMINATE, ids=[run_id])
        self.stack.wait(lambda: self.status(run_id) in FINAL, f"run {run_id} has ended", 60)
        return time.monotonic() - began

    def status(self, run_id: str) -> str:
        found = self.stack.graphql(RUNS, filter={"runIds": [run_id]})["runsOrError"]["results"]
        return str(found[0]["status"])

    def job_status(self, job_id: str) -> str:
        return str(self.stack.get(f"/api/v1/index/status/{job_id}")["status"])

    def wait_complete(self, job_id: str, *, timeout_s: float = 700) -> None:
        self.stack.wait(lambda: self.job_status(job_id) == "completed", f"job {job_id} is complete", timeout_s)

    def _tree(self, address: str) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.processes[address].pid)
            return [root, *root.children(recursive=True)]
        return []


def open_fleet(stack: Stack, folder: Path, *, workers: int, **settings: str) -> Iterator[Fleet]:
    """A running stack whose gpu runs start on so many workers; all of it is gone afterwards."""
    fleet = Fleet(stack, folder / "fleet.yaml")
    fleet.write_file([])
    stack.extra = {"CLIP_PIPELINE_FLEET": str(fleet.file), "CLIP_PIPELINE_ROOTS": str(folder)} | settings
    try:
        stack.start()
        stack.wait_ready(timeout_s=400)
        for _ in range(workers):
            fleet.start_worker()
        fleet.write_file(fleet.addresses)
        yield fleet
    finally:
        fleet.stop()
