"""The real stack as a test drives it: `clip-pipeline up` in a process of its own, watched from outside."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

from clip_pipeline.cli.stack.processes import MARKER
from clip_pipeline.ledger.balance import Balance, balance
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.publishing import outstanding

COMMAND = [sys.executable, "-m", "clip_pipeline.cli.main"]


@dataclass
class Stack:
    """One home and one watched folder, with or without a stack running on them."""

    home: Path
    watched: Path
    port: int = 0
    dagster_port: int = 0
    extra: Mapping[str, str] = field(default_factory=dict[str, str])
    process: subprocess.Popen[bytes] | None = None
    _ledger: Ledger | None = None

    def __post_init__(self) -> None:
        self.port, self.dagster_port = free_port(), free_port()
        self.watched.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "CLIP_PIPELINE_HOME": str(self.home),
            "CLIP_PIPELINE_ENCODER": "builtin",
            "CLIP_PIPELINE_PORT": str(self.port),
            "CLIP_PIPELINE_DAGSTER_PORT": str(self.dagster_port),
        }
        # Of the settings of the test only the ledger: with `--ledger postgres` it is in a server.
        kept = {k: v for k, v in os.environ.items() if not k.startswith("CLIP_PIPELINE_") or k.endswith("_LEDGER_URL")}
        return kept | own | dict(self.extra)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def graphql_url(self) -> str:
        return f"http://127.0.0.1:{self.dagster_port}/graphql"

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            below_home = f"sqlite:///{self.home / 'ledger.sqlite3'}"
            self._ledger = open_ledger(self.environment.get("CLIP_PIPELINE_LEDGER_URL", below_home))
        return self._ledger

    def start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--watch", str(self.watched)], env=self.environment, stdout=log, stderr=log
            )

    def wait_ready(self, timeout_s: float = 180) -> None:
        self.wait(self._is_healthy, "the service answers /health with 200", timeout_s)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)
            self.process = None
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def kill_everything(self) -> None:
        for process in self.processes():
            process.kill()

    def processes(self) -> list[psutil.Process]:
        """`up` and every process that carries this home's mark: servers, daemon, runs, decode workers."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARKER) == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if self.process is not None and self.process.poll() is None:
            found.append(psutil.Process(self.process.pid))
        return found

    def kill_one(self, rng: random.Random) -> str:
        """SIGKILL a process of the stack chosen at random; returns what it was. A dead `up` is started again."""
        victim = rng.choice(self.processes())
        try:
            name = " ".join(victim.cmdline())[-120:]
            victim.kill()
        except psutil.NoSuchProcess:
            return "gone already"
        if self.process is not None and victim.pid == self.process.pid:
            self.process.wait()
            self.start()
        return name

    def is_idle(self) -> bool:
        """Nothing registered awaits work and the release is up to date."""
        counts = self.balance().files
        pending = counts["registered"] + counts["manifested"] + counts["embedded"]
        return pending == 0 and outstanding(self.ledger).is_empty

    def wait_idle(self, *, files: int, timeout_s: float = 300) -> None:
        """Wait until `files` files are known that are not deleted, and all are at their end."""

        def done() -> bool:
            counts = self.balance().files
            return sum(counts.values()) - counts["deleted"] >= files and self.is_idle()

        self.wait(done, f"{files} files are at their end", timeout_s)

    def balance(self) -> Balance:
        return balance(self.ledger)

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {what}\n{self.balance()}\n{self.log_end()}")
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"`up` ended with {self.process.returncode}\n{self.log_end()}")
            time.sleep(0.2)

    def log_end(self) -> str:
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in (self.home / "up.log", *sorted((self.home / "logs").glob("*.log")))
            if log.is_file()
        )

    def run(self, *arguments: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )

    def get(self, path: str, **parameters: str | int) -> dict[str, Any]:
        return httpx.get(self.url + path, params=parameters, timeout=60).raise_for_status().json()

    def found(self, text: str, k: int = 10) -> list[str]:
        """File names of the hits, best first."""
        return [Path(hit["path"]).name for hit in self.get("/api/v1/search", q=text, k=k)["results"]]

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        answer = httpx.post(self.graphql_url, json={"query": query, "variables": variables}, timeout=60)
        document = answer.raise_for_status().json()
        assert "errors" not in document, document["errors"]
        return document["data"]

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(self.url + "/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


def write_photos(folder: Path, count: int, *, seed: int = 0) -> None:
    """Distinct little pictures: smooth random colours, so that they decode and differ as photographs do."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        grid = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(grid).resize((160, 120), Image.Resampling.BICUBIC)
        picture.save(folder / f"photo_{seed}_{number:04d}.jpg", quality=85)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
