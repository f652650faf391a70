"""A whole stack, started for a measurement in a home and a watched folder of its own, and stopped again."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.report import ROOT
from clip_pipeline.cli.configuration import load_settings
from clip_pipeline.cli.stack.state import dagster_url, running_stack, service_url
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.serving.orchestrator import Orchestrator
from clip_pipeline.settings import Settings

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is ready: its ledger, its service, Dagster's answers, and the folder that it watches.

    pid: of the process that started all others.
    """

    watched: Path
    ledger: Ledger
    service: httpx.Client
    orchestrator: Orchestrator
    ready_s: float
    pid: int

    def found_paths(self, text: str, *, k: int) -> set[str]:
        """The paths that a search finds now, duplicates too."""
        response = self.service.get("/api/v1/search", params={"q": text, "k": str(k)})
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # no release yet, or the encoder is loading
            return set()
        results = response.raise_for_status().json()["results"]
        return {path for hit in results for path in (hit["path"], *hit["duplicates"])}


@contextmanager
def temporary_folder(benchmark: str, *, keep: bool) -> Generator[Path, None, None]:
    """A folder for a benchmark's homes, gone after the block; or kept, with their logs, and named to people."""
    folder = Path(tempfile.mkdtemp(prefix=f"clip-pipeline-{benchmark}-"))
    try:
        yield folder
    finally:
        if keep:
            sys.stderr.write(f"kept {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(folder: Path, *, encoder: str, extra: Mapping[str, str] | None = None) -> Generator[Stack, None, None]:
    """`clip-pipeline up` on free ports, ready in the block, gone after it. extra: further environment variables.

    Raises:
        SystemExit: it does not come up; with the end of what it said.
    """
    home, watched = folder / "home", folder / "watched"
    for path in (home, watched):
        path.mkdir(parents=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")}
    command = [
        *(sys.executable, "-m", "clip_pipeline.cli.main", "up", "--watch", str(watched)),
        *("--port", "0", "--dagster-port", "0", "--encoder", encoder),
    ]
    log = folder / "up.log"
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables | {"CLIP_PIPELINE_HOME": str(home)} | dict(extra or {}),
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(lambda: _is_ready(process, log), timeout_s=START_TIMEOUT_S, what="the stack to be ready")
        yield from _opened(load_settings(home=home), watched, ready_s=time.monotonic() - began, pid=process.pid)
    finally:
        _stop(process)


def wait_for(condition: Callable[[], bool], *, timeout_s: float, what: str) -> float:
    """Wait until the condition holds and return when that was seen, in Unix seconds. Raises SystemExit in the end."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {timeout_s:.0f} s for {what} in vain")
        time.sleep(LOOK_EVERY_S)
    return time.time()


def _is_ready(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    said = log.read_text(errors="replace")
    if process.poll() is not None:
        raise SystemExit(f"clip-pipeline up ended with status {process.returncode}:\n{said[-2000:]}")
    return "Ready after" in said


def _opened(settings: Settings, watched: Path, *, ready_s: float, pid: int) -> Generator[Stack, None, None]:
    facts, url = running_stack(settings.home_path), service_url(settings.home_path)
    if facts is None or url is None:
        raise SystemExit(f"the stack of {settings.home_path} says that it is ready, but not where it answers")
    ledger = open_ledger(settings.ledger_location)
    orchestrator = Orchestrator(dagster_url(settings))
    try:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as service:
            yield Stack(watched, ledger, service, orchestrator, ready_s, pid)
    finally:
        orchestrator.close()
        ledger.close()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
