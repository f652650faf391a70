"""Workers beside a stack under test, and the embedding runs that they did, with the processor time of each."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from sqlalchemy import func, select

from benchmarks.footprint import tree_cpu_s
from benchmarks.report import ROOT
from benchmarks.run_stages import RunTimes, run_times
from benchmarks.stack_under_test import STOP_TIMEOUT_S, Stack, running, wait_for
from clip_pipeline.cli.stack.ports import LOOPBACK, free_port
from clip_pipeline.ledger.jobs import job_counts
from clip_pipeline.ledger.planning import batches_to_embed
from clip_pipeline.ledger.schema import batches
from clip_pipeline.ledger.workers import WorkerState, list_workers

START_TIMEOUT_S = 300.0
JOB_TIMEOUT_S = 3600.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "CLIP_PIPELINE_DECODE_WORKERS": "1"}
_SENSOR = {"repositoryName": "__repository__", "repositoryLocationName": "gpu", "sensorName": "sealed_manifests"}
_SENSOR_ID = """query Id($s: SensorSelector!) { sensorOrError(sensorSelector: $s) {
  ... on Sensor { sensorState { id } } } }"""
_STOP = "mutation Stop($id: String!) { stopSensor(id: $id) { __typename } }"
_START = "mutation Start($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"
_RUNS = """query Runs($filter: RunsFilter!) { runsOrError(filter: $filter) { ... on Runs { results {
  runId status tags { key value } } } } }"""
_METADATA = """partition metadataEntries { label
  ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue } }"""
_EVENTS = f"""query Events($id: ID!, $after: String) {{ logsForRun(runId: $id, afterCursor: $after) {{
  ... on EventConnection {{ cursor hasMore events {{ __typename
    ... on MessageEvent {{ timestamp }}
    ... on ObservationEvent {{ {_METADATA} }}
    ... on MaterializationEvent {{ {_METADATA} }} }} }} }} }}"""


@dataclass(slots=True)
class FleetUnderTest:
    """A stack whose embedding runs start on workers of this machine: those that the fleet file names."""

    stack: Stack
    file: Path
    environment: Mapping[str, str]
    workers: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict[str, "subprocess.Popen[bytes]"])

    def start_worker(self, *, core: int | None) -> str:
        """`clip-pipeline worker`, alive and ready; on one core of this machine alone, as a small host would be, or any.

        Returns its address.
        """
        port = free_port()
        address = f"{LOOPBACK}:{port}"
        command = [sys.executable, "-m", "clip_pipeline.cli.main", "worker", "--port", str(port), "--gpu", "cpu"]
        log = self.file.with_name(f"worker-{port}.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=dict(self.environment), stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        if core is not None:
            os.sched_setaffinity(process.pid, {core})  # inherited by all that it starts
        self.workers[address] = process
        wait_for(lambda: self._is_ready(address, log), timeout_s=START_TIMEOUT_S, what=f"worker {address}")
        return address

    def use(self, addresses: Sequence[str]) -> None:
        """Name these workers in the fleet file, as a person would to add or remove one."""
        entries = [{"host": LOOPBACK, "port": int(address.rpartition(":")[2])} for address in addresses]
        beside = self.file.with_suffix(".new")
        beside.write_text(yaml.safe_dump({"gpu": entries}))
        beside.replace(self.file)

    def submit(self, paths: Sequence[Path]) -> str:
        """Add images over HTTP; the id of the job."""
        body = {"image_paths": [str(path) for path in paths]}
        answer = self.stack.service.post("/api/v1/index/add-images", json=body)
        return str(answer.raise_for_status().json()["job_id"])

    @contextmanager
    def embedding_held_back(self) -> Generator[None, None, None]:
        """No embedding run is requested in the block: its sensor is off, as a person would turn it off."""
        found = self._ask(_SENSOR_ID, s=_SENSOR)["sensorOrError"]["sensorState"]["id"]
        self._ask(_STOP, id=found)
        try:
            yield
        finally:
            self._ask(_START, s=_SENSOR)

    def wait_inspected(self, images: int, *, in_batches: int) -> None:
        """Wait until so many images in so many batches await their embedding."""

        def is_there() -> bool:
            waiting = batches_to_embed(self.stack.ledger, most=1_000)
            return len(waiting) == in_batches and sum(batch.images for batch in waiting) == images

        wait_for(is_there, timeout_s=JOB_TIMEOUT_S, what=f"{images} images to be inspected")

    def wait_complete(self, job_ids: Sequence[str]) -> None:
        """Wait until the jobs are complete and nothing works any more."""
        for job_id in job_ids:
            wait_for(
                lambda job_id=job_id: job_counts(self.stack.ledger, job_id).completed_at is not None,
                timeout_s=JOB_TIMEOUT_S, what=f"job {job_id} to complete",
            )  # fmt: skip
        wait_for(self._is_idle, timeout_s=JOB_TIMEOUT_S, what="the last run to end")

    def embedding_runs(self, job_ids: Sequence[str]) -> list[RunTimes]:
        """The embedding runs that served any of the jobs, in the order of their start.

        Raises:
            SystemExit: one of them did not succeed, so that their times are not those of the work alone.
        """
        found = self._runs_of(job_ids)
        failed = [run["runId"] for run in found if run["status"] != "SUCCESS"]
        if failed:
            raise SystemExit(f"embedding runs did not succeed: {', '.join(failed)}")
        runs = [run_times(run["runId"], _worker_of(run), self._events(run["runId"])) for run in found]
        return sorted(runs, key=lambda run: run.started_at)

    def embedded_images(self) -> int:
        """Images that the ledger counts as embedded or failed in all batches there are, those under way included."""
        with self.stack.ledger.read() as connection:
            return int(connection.execute(select(func.coalesce(func.sum(batches.c.processed), 0))).scalar_one())

    def stop(self) -> None:
        """End the workers, those that drain at once too."""
        for process in self.workers.values():
            process.send_signal(signal.SIGTERM)
        for process in self.workers.values():
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _is_ready(self, address: str, log: Path) -> bool:
        process = self.workers[address]
        if process.poll() is not None:
            said = log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"the worker ended with status {process.returncode}:\n{said}")
        known = list_workers(self.stack.ledger)
        return any(worker.card.address == address and worker.state is WorkerState.READY for worker in known)

    def _is_idle(self) -> bool:
        unfinished = {"statuses": ["NOT_STARTED", "QUEUED", "STARTING", "STARTED", "CANCELING"]}
        return not self._ask(_RUNS, filter=unfinished)["runsOrError"]["results"]

    def _runs_of(self, job_ids: Sequence[str]) -> list[Mapping[str, Any]]:
        runs: dict[str, Mapping[str, Any]] = {}
        for job_id in job_ids:
            chosen = {"pipelineName": "embed_images", "tags": [{"key": f"clip/job/{job_id}", "value": "1"}]}
            runs |= {run["runId"]: run for run in self._ask(_RUNS, filter=chosen)["runsOrError"]["results"]}
        return list(runs.values())

    def _events(self, run_id: str) -> list[Mapping[str, Any]]:
        events: list[Mapping[str, Any]] = []
        after: str | None = None
        while True:
            page = self._ask(_EVENTS, id=run_id, after=after)["logsForRun"]
            events += page["events"]
            if not page["hasMore"]:
                return events
            after = page["cursor"]

    def _ask(self, query: str, **variables: object) -> dict[str, Any]:
        url = f"{self.stack.orchestrator.url}/graphql"
        answer = httpx.post(url, json={"query": query, "variables": variables}, timeout=60, trust_env=False)
        document = answer.raise_for_status().json()
        if "errors" in document:
            raise SystemExit(f"Dagster's webserver refused a question: {document['errors']}")
        return document["data"]


@dataclass(frozen=True, slots=True)
class CoresUsed:
    """Cores at work on average over a time: in the workers, in the rest of the stack, and in other programs."""

    workers: float
    rest: float
    others: float


class CoreMeter:
    """Counts, from when it is made, who uses the processor."""

    def __init__(self, fleet: FleetUnderTest) -> None:
        self._fleet = fleet
        self._began = time.monotonic()
        self._before = self._seconds()

    def read(self) -> CoresUsed:
        """Since it was made."""
        passed_s = time.monotonic() - self._began
        workers, rest, everything = (
            (now - before) / passed_s for now, before in zip(self._seconds(), self._before, strict=True)
        )
        return CoresUsed(round(workers, 2), round(rest, 2), round(max(0.0, everything - workers - rest), 2))

    def _seconds(self) -> tuple[float, float, float]:
        workers = sum(tree_cpu_s(process.pid) for process in self._fleet.workers.values())
        times = psutil.cpu_times()
        return workers, tree_cpu_s(self._fleet.stack.pid), times.user + times.nice + times.system


@contextmanager
def fleet_running(
    folder: Path, *, encoder: str, roots: Path, extra: Mapping[str, str], worker: Mapping[str, str]
) -> Generator[FleetUnderTest, None, None]:
    """A stack with an empty fleet, ready in the block; it and its workers are gone after it.

    roots: where the images lie. extra, worker: further environment variables of the stack and of the workers.
    """
    file = folder / "fleet.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({"gpu": []}))
    own = {"CLIP_PIPELINE_FLEET": str(file), "CLIP_PIPELINE_ROOTS": str(roots), **extra}
    with running(folder / "stack", encoder=encoder, extra=own) as stack:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")}
        home = {"CLIP_PIPELINE_HOME": str(folder / "stack" / "home"), "CLIP_PIPELINE_ENCODER": encoder}
        fleet = FleetUnderTest(stack, file, kept | home | own | dict(worker))
        try:
            yield fleet
        finally:
            fleet.stop()


def _worker_of(run: Mapping[str, Any]) -> str:
    return next((tag["value"] for tag in run["tags"] if tag["key"] == "clip/worker"), "")
