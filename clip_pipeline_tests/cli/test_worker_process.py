"""`clip-pipeline worker` as it is really run: checked, seen, given a run by Dagster, drained, killed, started again."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from clip_pipeline.cli.stack.ports import free_port
from clip_pipeline.cli.stack.processes import MARKER
from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.embedding.registry import load_encoder
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.deployment import adopt_store
from clip_pipeline.ledger.workers import SILENT_S, KnownWorker, WorkerState, list_workers
from clip_pipeline.settings import Settings
from clip_pipeline_tests.cli.stack.children import runs, text_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# A run goes to the server of its location at once: no queue, no daemon.
INSTANCE = """
run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}
telemetry: {enabled: false}
"""
LOCATION = "load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {}, location_name: gpu}}\n"
READY_S, END_S = 400, 120


@dataclass
class RealWorker:
    """A worker of one home, as processes."""

    home: Path
    ledger: Ledger
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def log(self):
        return self.home / "worker.log"

    @property
    def mark(self):
        return self.home / "workers" / f"127.0.0.1-{self.port}"

    def start(self, *arguments):
        command = [sys.executable, "-m", "clip_pipeline.cli.main", "worker", "--gpu", "cpu", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)

    def seen(self) -> KnownWorker | None:
        (known,) = list_workers(self.ledger) or [None]
        return known

    def wait_for(self, state, timeout_s=READY_S):
        def reached():
            assert self.process is None or self.process.poll() is None or state is WorkerState.LEFT, text_of(self.log)
            seen = self.seen()
            return seen is not None and seen.state is state

        wait_until(reached, timeout_s=timeout_s)

    def end(self):
        assert self.process is not None
        assert self.process.wait(END_S) == 0, text_of(self.log)

    def children(self):
        """The ids of all processes of this worker but itself."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARKER) == str(self.mark) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    def server(self):
        """The process id of the code server."""
        assert self.process is not None
        (pid,) = [
            child.pid for child in psutil.Process(self.process.pid).children() if "grpc" in " ".join(child.cmdline())
        ]
        return pid

    def launch(self, job):
        """Start a run of a job on this worker; returns when Dagster was told."""
        workspace = self.home / "workspace.yaml"
        workspace.write_text(LOCATION.format(self.port))
        command = [sys.executable, "-m", "dagster", "job", "launch", "-w", str(workspace), "-j", job]
        subprocess.run(command, check=True, timeout=120, capture_output=True)

    def statuses(self):
        """The status of every run of the instance, newest first."""
        code = "import dagster as dg; print(*(r.status.value for r in dg.DagsterInstance.get().get_runs()))"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
        return asked.stdout.split()

    def kill_everything(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.children():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def worker(home, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    monkeypatch.setenv("CLIP_PIPELINE_ANALYSIS_IDLE_S", "12")
    (home / "dagster").mkdir(parents=True)
    (home / "dagster" / "dagster.yaml").write_text(INSTANCE)
    settings = Settings()
    ledger = open_ledger(settings.ledger_location)
    adopt_store(ledger, settings.store)
    pin_encoder(settings.store, load_encoder("builtin", device="cpu").spec)
    real = RealWorker(home, ledger)
    yield real
    real.kill_everything()
    ledger.close()


def test_a_run_is_done_before_a_worker_that_was_told_to_stop_ends(worker):
    worker.start()
    worker.wait_for(WorkerState.READY)
    assert worker.seen().card.address == f"127.0.0.1:{worker.port}"
    assert worker.seen().card.gpu.startswith("cpu")
    worker.launch("analyze_images")
    worker.wait_for(WorkerState.BUSY)
    (run_id,) = worker.seen().report.run_ids
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for(WorkerState.DRAINING, timeout_s=10)
    assert worker.seen().report.run_ids == (run_id,)
    worker.end()
    assert worker.statuses() == ["SUCCESS"]
    assert worker.seen().state is WorkerState.LEFT
    assert worker.children() == []
    said = text_of(worker.log)
    assert "draining" in said
    assert "least cosine" in said


def test_a_run_that_takes_too_long_is_ended_and_recorded_as_failed(worker, monkeypatch):
    monkeypatch.setenv("CLIP_PIPELINE_ANALYSIS_IDLE_S", "600")
    worker.start("--drain", "1")
    worker.wait_for(WorkerState.READY)
    worker.launch("analyze_images")
    worker.wait_for(WorkerState.BUSY)
    wait_until(lambda: worker.statuses() == ["STARTED"], timeout_s=60)
    worker.process.send_signal(signal.SIGTERM)
    worker.end()
    assert worker.statuses() == ["FAILURE"]
    assert worker.children() == []


def test_a_server_that_dies_is_started_again_and_an_idle_worker_ends_at_once(worker):
    worker.start()
    worker.wait_for(WorkerState.READY)
    first = worker.server()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not runs(first))
    worker.wait_for(WorkerState.STARTING, timeout_s=30)
    worker.wait_for(WorkerState.READY)
    assert worker.server() != first
    worker.process.send_signal(signal.SIGINT)
    worker.end()
    assert worker.children() == []


def test_a_killed_worker_leaves_no_server_is_lost_and_its_run_ends_with_its_next_start(worker, monkeypatch):
    monkeypatch.setenv("CLIP_PIPELINE_ANALYSIS_IDLE_S", "600")
    worker.start()
    worker.wait_for(WorkerState.READY)
    worker.launch("analyze_images")
    worker.wait_for(WorkerState.BUSY)
    server, everything = worker.server(), worker.children()
    worker.process.kill()
    worker.process.wait()
    wait_until(lambda: not runs(server))
    left = worker.children()
    assert server not in left
    wait_until(lambda: worker.seen().state is WorkerState.LOST, timeout_s=SILENT_S + 20)
    worker.start()
    worker.wait_for(WorkerState.READY)
    assert [pid for pid in everything if runs(pid)] == []
    assert not left or "had left behind" in text_of(worker.log)
    worker.process.send_signal(signal.SIGTERM)
    worker.end()


def test_a_worker_whose_checks_fail_takes_no_work_and_is_not_seen(worker):
    worker.ledger.close()
    worker.home.joinpath("store", "store.json").unlink()
    worker.start()
    assert worker.process.wait(READY_S) == 10
    assert "has no id" in " ".join(text_of(worker.log).split())
    assert worker.seen() is None
