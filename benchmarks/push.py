"""Push: from a commit in the ledger to a client that hears of it, and what 200 clients cost that hear nothing.

A real `clip-pipeline api` on PostgreSQL, which announces changes, and one on SQLite, where the service looks for them.
Another process changes a request of the analysis lane, which a WebSocket listens to, and then makes jobs, for somebody
who listens to all events; both at uneven times. Dagster does not run.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import psutil
from websockets.sync.client import ClientConnection, connect

from benchmarks.postgres_server import running_postgres
from benchmarks.report import ROOT, console, machine, print_table, publish
from clip_pipeline.ledger.analysis_queue import claim, give_back
from clip_pipeline.ledger.analysis_requests import NewAnalysis, submit_analysis
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.registration import FileFacts, Submission, register_files

LISTENERS, SETTLE_S = 200, 6.0
START_TIMEOUT_S = 120.0
UPLOAD = NewAnalysis(
    source="api", sha256="0" * 64, filename="a.png", format="PNG", width=1, height=1, size_bytes=1, labels=("a", "b")
)


def main() -> None:
    """Measure both databases, one after the other."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=30, metavar="N", help="changes of each kind (30)")
    parser.add_argument("--idle", type=float, default=20.0, metavar="S", help="seconds to watch idle listeners (20)")
    arguments = parser.parse_args()
    facts = machine()
    with tempfile.TemporaryDirectory(prefix="clip-pipeline-push-") as folder, running_postgres() as postgres:
        places = {"PostgreSQL": postgres, "SQLite": f"sqlite:///{folder}/ledger.sqlite3"}
        measured = {
            name: _measured(Path(folder) / name, url, changes=arguments.changes, idle_s=arguments.idle)
            for name, url in places.items()
        }
    publish("push", {"machine": facts, "listeners": LISTENERS, "measured": measured})
    headers = ("", "result ms", "worst", "job ms", "worst", f"{LISTENERS} idle, % of a core")
    rows = [(name, *(f"{figure:.1f}" for figure in found.values())) for name, found in measured.items()]
    print_table("Push: from commit to client, medians", headers, rows)


def _measured(home: Path, url: str, *, changes: int, idle_s: float) -> dict[str, float]:
    console().print(f"{home.name}: starting")
    with _service(home, url) as (process, port), closing(open_ledger(url)) as ledger:
        analysis_ms = _analysis_ms(ledger, port, changes=changes)
        job_ms = _job_ms(ledger, port, changes=changes)
        return {
            "analysis_median_ms": statistics.median(analysis_ms), "analysis_worst_ms": max(analysis_ms),
            "job_median_ms": statistics.median(job_ms), "job_worst_ms": max(job_ms),
            "idle_core_percent": _idle_percent(psutil.Process(process.pid), port, seconds=idle_s),
        }  # fmt: skip


def _analysis_ms(ledger: Ledger, port: int, *, changes: int) -> list[float]:
    request_id = submit_analysis(ledger, UPLOAD)

    def change(number: int) -> None:
        if number % 2:
            give_back(ledger, "benchmark")
        else:
            claim(ledger, owner="benchmark", most=1, lease_s=600, now=time.time())

    with _socket(port, f"analysis/{request_id}") as client:
        return [_delay_ms(lambda: client.recv(timeout=30), change, number) for number in range(changes)]


def _job_ms(ledger: Ledger, port: int, *, changes: int) -> list[float]:
    def change(number: int) -> None:
        register_files(ledger, [FileFacts(f"/{number}.jpg", 1, 1)], submission=Submission("api"))

    with httpx.stream("GET", f"http://127.0.0.1:{port}/events", timeout=30, trust_env=False) as stream:
        lines = stream.iter_lines()
        next(lines)
        time.sleep(SETTLE_S)
        return [_delay_ms(lambda: _next_event(lines), change, number) for number in range(changes)]


def _next_event(lines: Iterator[str]) -> None:
    next(line for line in lines if line.startswith("data:"))


def _delay_ms(hear: Callable[[], object], change: Callable[[int], None], number: int) -> float:
    # Uneven, so that no change keeps step with a service that looks at even times.
    time.sleep(0.6 + 0.037 * (number % 13))
    change(number)
    committed = time.perf_counter()
    hear()
    return 1000 * (time.perf_counter() - committed)


def _idle_percent(service: psutil.Process, port: int, *, seconds: float) -> float:
    with ExitStack() as stack, httpx.Client(limits=httpx.Limits(max_connections=None), trust_env=False) as client:
        for _ in range(LISTENERS):
            stream = stack.enter_context(client.stream("GET", f"http://127.0.0.1:{port}/events", timeout=30))
            next(stream.iter_raw())
        time.sleep(SETTLE_S)
        before, begun = sum(service.cpu_times()[:2]), time.monotonic()
        time.sleep(seconds)
        return 100 * (sum(service.cpu_times()[:2]) - before) / (time.monotonic() - begun)


@contextmanager
def _socket(port: int, subject: str) -> Generator[ClientConnection, None, None]:
    """A client that has been told how the subject stands."""
    with connect(f"ws://127.0.0.1:{port}/ws/{subject}", proxy=None) as client:
        client.recv(timeout=30)
        time.sleep(SETTLE_S)
        yield client


@contextmanager
def _service(home: Path, url: str) -> "Generator[tuple[subprocess.Popen[bytes], int], None, None]":
    """A service that answers, and its port."""
    home.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "CLIP_PIPELINE_HOME": str(home), "CLIP_PIPELINE_PORT": str(port), "CLIP_PIPELINE_LEDGER_URL": url,
        "CLIP_PIPELINE_DAGSTER_URL": "http://127.0.0.1:9",  # where nobody answers
    }  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")} | own
    command = [sys.executable, "-m", "clip_pipeline.cli.main", "api"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        _wait_ready(process, port, log=home / "log")
        yield process, port
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)


def _wait_ready(process: "subprocess.Popen[bytes]", port: int, *, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            json.loads(httpx.get(f"http://127.0.0.1:{port}/health", timeout=30, trust_env=False).content)
            return
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the service does not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.1)


if __name__ == "__main__":
    main()
