"""The HTTP service while paths come in: how long submitting takes, what a status costs, and how others fare meanwhile.

A real `clip-pipeline api` on a ledger of a million indexed files is sent 100,000 and then 1,000 paths, mixed as in
`benchmarks.register`: half are known, a tenth have changed, the rest are new. Those files exist, so that looking at
them costs what it costs. All the while another process asks for `/health` every 5 ms. Between the two the status of
the large job is asked for. Dagster does not run, which `/health` says; its answers are no part of what is measured.

`benchmarks.plain_service` gets the same requests in the same run. Each round is on a fresh copy of the ledger.
"""

import argparse
import http.client
import json
import os
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.register import fact_of, submitted_facts
from benchmarks.report import ROOT, console, machine, print_table, progress, publish, verdict
from clip_pipeline.core.store import fsync_path
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.registration import FileFacts, Submission, register_files

SMALL, LARGE = 1_000, 100_000
GOALS_MS = {"submit_1000_ms": 150, "submit_100000_ms": 6_000, "health_worst_ms": 50, "status_ms": 20}
ADD = "/api/v1/index/add-images"
POLL_EVERY_S = 0.005
STATUS_ASKED = 50
START_TIMEOUT_S = 60.0
_STEP = 100_000
OURS, PLAIN = "clip-pipeline api", "per-path queries"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What every round begins with. bodies: the requests, small and large."""

    ledger: Path
    photos: Path
    bodies: dict[int, bytes]


def main() -> None:
    """Build what is known, then measure both services, round by round."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--known", type=int, default=1_000_000, metavar="N", help="paths known before (1,000,000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of both services (3)")
    parser.add_argument("--poll", type=int, metavar="PORT", help=argparse.SUPPRESS)  # in the child process
    arguments = parser.parse_args()
    if arguments.poll:
        sys.stdout.write(json.dumps(_polled(arguments.poll)))
        return
    with tempfile.TemporaryDirectory(prefix="clip-pipeline-service-") as folder:
        _compare(Path(folder), known=arguments.known, rounds=arguments.rounds)


def _compare(folder: Path, *, known: int, rounds: int) -> None:
    facts = machine()
    measured: dict[str, list[dict[str, float]]] = {OURS: [], PLAIN: []}
    with progress() as bar:
        task = bar.add_task("Building what is known", total=1 + 2 * rounds)
        inputs = _built(folder, known=known)
        bar.advance(task)
        for number in range(rounds):
            for name, start in ((OURS, _our_service), (PLAIN, _plain_service)):
                bar.update(task, description=f"Round {number + 1}: {name}")
                measured[name].append(_round(folder / "round", inputs, start))
                bar.advance(task)
    ours, plain = (_median(measured[name]) for name in (OURS, PLAIN))
    reached = {name: ours[name] < goal for name, goal in GOALS_MS.items()}
    publish(
        "service",
        {
            "machine": facts, "known": known, "database": f"SQLite {sqlite3.sqlite_version}",
            "median": {OURS: ours, PLAIN: plain}, "rounds": measured, "goals_ms": GOALS_MS, "goals_reached": reached,
        },
    )  # fmt: skip
    rows = [(name, *_shown(name, ours, measured[OURS]), _of(plain, name), _goal(name, reached)) for name in ours]
    print_table(f"{known:,} known paths", ("ms", "median", "least", "most", PLAIN, "goal"), rows)
    console().print(f"Goals: {verdict(all(reached.values()))}")


def _built(folder: Path, *, known: int) -> Inputs:
    """A ledger, and on disk the files that will be submitted."""
    photos = folder / "photos"
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
    try:
        for start in range(0, known, _STEP):
            numbers = range(start, min(known, start + _STEP))
            register_files(ledger, (_below(photos, fact_of(n)) for n in numbers), submission=Submission("cli"))
    finally:
        ledger.close()
    _mark_as_indexed(folder / "ledger.sqlite3")
    bodies: dict[int, bytes] = {}
    for count in (SMALL, LARGE):
        submitted = [_below(photos, fact) for fact in submitted_facts(count, known=known)]
        _make_files(submitted)
        bodies[count] = json.dumps({"image_paths": [fact.path for fact in submitted]}).encode()
    return Inputs(folder / "ledger.sqlite3", photos, bodies)


def _mark_as_indexed(database: Path) -> None:
    """As if Dagster had worked on everything: its jobs are complete."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE files SET state = 'indexed'")
        connection.execute("UPDATE jobs SET completed_at = created_at, failed_images = 0")


def _below(photos: Path, fact: FileFacts) -> FileFacts:
    return replace(fact, path=f"{photos}{fact.path}")


def _make_files(facts: Sequence[FileFacts]) -> None:
    """Files without content that look as the facts say."""
    for folder in {os.path.dirname(fact.path) for fact in facts}:
        os.makedirs(folder, exist_ok=True)
    for fact in facts:
        with open(fact.path, "wb") as file:
            file.truncate(fact.size_bytes)
        os.utime(fact.path, ns=(fact.mtime_ns, fact.mtime_ns))


def _round(home: Path, inputs: Inputs, start: Callable[[Path, Inputs], Any]) -> dict[str, float]:
    """One service, from its start on a copy of the ledger."""
    home.mkdir()
    try:
        shutil.copy(inputs.ledger, home / "ledger.sqlite3")
        fsync_path(home / "ledger.sqlite3")  # or the first commit would pay for writing all of it
        with start(home, inputs) as port:
            return dict(_requests(port, inputs.bodies))
    finally:
        shutil.rmtree(home)


def _requests(port: int, bodies: dict[int, bytes]) -> Iterator[tuple[str, float]]:
    _ask(port, "GET", "/health")  # the first request of all opens connections
    waits: list[float] = []
    for count in (LARGE, SMALL):
        with _polling(port) as seen:
            answer, took_ms = _ask(port, "POST", ADD, bodies[count])
        yield f"submit_{count}_ms", took_ms
        waits += seen
        if count == LARGE and "job_id" in answer:
            status = f"/api/v1/index/status/{answer['job_id']}"
            yield "status_ms", statistics.median(_ask(port, "GET", status)[1] for _ in range(STATUS_ASKED))
    yield "health_median_ms", round(statistics.median(waits), 1)
    yield "health_p99_ms", round(statistics.quantiles(waits, n=100)[98], 1)
    yield "health_worst_ms", round(max(waits), 1)


def _ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[dict[str, Any], float]:
    """The answer to one request on a connection of its own, and its milliseconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    began = time.perf_counter()
    connection.request(method, path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    took_ms = round(1000 * (time.perf_counter() - began), 1)
    connection.close()
    if response.status >= 400 and path != "/health":
        raise SystemExit(f"{method} {path} gave {response.status}: {content[:500].decode()}")
    return json.loads(content), took_ms


@contextmanager
def _polling(port: int) -> Generator[list[float], None, None]:
    """In the block a process asks for `/health`; after it the milliseconds of each answer are in the list."""
    command = [sys.executable, "-m", "benchmarks.service", "--poll", str(port)]
    waits: list[float] = []
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is asking
        yield waits
        waits += json.loads(process.communicate()[0])


def _polled(port: int) -> list[float]:
    """Milliseconds of one request after the other until standard input ends; at most one each `POLL_EVERY_S`."""
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    waits: list[float] = []
    while not is_over.wait(POLL_EVERY_S):
        began = time.perf_counter()
        connection.request("GET", "/health")
        connection.getresponse().read()
        waits.append(round(1000 * (time.perf_counter() - began), 2))
        if len(waits) == 1:
            sys.stdout.write("\n")
            sys.stdout.flush()
    return waits


@contextmanager
def _our_service(home: Path, inputs: Inputs) -> Generator[int, None, None]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")}
    port, dagster = _free_port(), _free_port()
    own = {"HOME": home, "ROOTS": inputs.photos, "PORT": port, "DAGSTER_PORT": dagster, "ENCODER": "builtin"}
    variables |= {f"CLIP_PIPELINE_{name}": str(value) for name, value in own.items()}
    with _serving([sys.executable, "-m", "clip_pipeline.cli.main", "api"], port, variables):
        yield port


@contextmanager
def _plain_service(home: Path, _inputs: Inputs) -> Generator[int, None, None]:
    port = _free_port()
    command = [sys.executable, "-m", "benchmarks.plain_service", str(home / "ledger.sqlite3"), str(port)]
    with _serving(command, port, dict(os.environ)):
        yield port


@contextmanager
def _serving(command: list[str], port: int, variables: dict[str, str]) -> Generator[None, None, None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"{command} does not serve: {log.read()[-2000:].decode()}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait()


def _answers(port: int) -> bool:
    try:
        _ask(port, "GET", "/health")
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _median(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(r[name] for r in rounds), 1) for name in rounds[0]}


def _shown(name: str, median: dict[str, float], rounds: Sequence[dict[str, float]]) -> tuple[float, float, float]:
    values = [r[name] for r in rounds]
    return median[name], round(min(values), 1), round(max(values), 1)


def _of(median: dict[str, float], name: str) -> str:
    return f"{median[name]:g}" if name in median else "-"


def _goal(name: str, reached: dict[str, bool]) -> str:
    return f"< {GOALS_MS[name]} {verdict(reached[name])}" if name in GOALS_MS else ""


if __name__ == "__main__":
    main()
