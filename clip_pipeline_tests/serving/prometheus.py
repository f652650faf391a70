"""A real Prometheus for tests, and what the dashboards and alerts of `deploy/` ask it."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from clip_pipeline_tests.serving.world import free_port

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
RATE_S = 10
PATIENCE_S = 30


@dataclass(frozen=True, slots=True)
class Asked:
    """One expression, and where it stands."""

    where: str
    expr: str


def panel_expressions() -> list[Asked]:
    """Every expression of every panel, with the look-back of rates filled in as Grafana does."""
    found = []
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            found += [
                Asked(f"{path.name}: {panel['title']}", target["expr"].replace("$__rate_interval", f"{RATE_S}s"))
                for target in panel["targets"]
            ]
    return found


def alert_rules() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def alert_expressions() -> list[Asked]:
    """The expression of every alert."""
    return [Asked(rule["alert"], rule["expr"]) for rule in alert_rules()]


def names_in(expr: str) -> set[str]:
    """The series that an expression selects."""
    without_labels = re.sub(r'"[^"]*"', "", expr)
    return set(re.findall(r"\bclip_[a-z_]+|\bup\b|\bALERTS\b", without_labels))


def matchers_in(expr: str) -> list[tuple[str, str, str, str]]:
    """(series, label, operator, value) of everything between braces."""
    return [
        (name, *matcher)
        for name, inside in re.findall(r"\b(clip_[a-z_]+)\{([^}]*)\}", expr)
        for matcher in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)
    ]


class Server:
    """A Prometheus that scrapes one service every second."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=20)

    def close(self) -> None:
        """Close the connections; the server itself goes on."""
        self._client.close()

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        answer = self._client.get("/query", params={"query": expr}).raise_for_status().json()
        assert answer["status"] == "success", (expr, answer)
        return answer["data"]["result"]

    def rules(self) -> dict[str, dict[str, Any]]:
        """Each alert as Prometheus has it, once all were evaluated."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            groups = self._client.get("/rules").json()["data"]["groups"]
            rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
            if rules and all(rule["health"] != "unknown" for rule in rules.values()):
                return rules
            assert time.monotonic() < deadline, rules
            time.sleep(0.1)

    def wait(self, expr: str) -> None:
        """Until an expression gives something."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if self.query(expr):
                    return
            except httpx.HTTPError:
                pass  # it is starting
            assert time.monotonic() < deadline, expr
            time.sleep(0.1)


@contextmanager
def prometheus_server(folder: Path, *, target: str, key: Path) -> Generator[Server, None, None]:
    """A Prometheus on the configuration of `deploy/`, with this target in place of the one named there."""
    port = free_port()
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "1s")
    (scrape,) = config["scrape_configs"]
    del scrape["dns_sd_configs"]
    scrape |= {"static_configs": [{"targets": [target]}]}
    scrape["authorization"]["credentials_file"] = str(key)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yml").write_bytes(ALERTS.read_bytes())
    command = [
        str(PROMETHEUS), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        server = Server(port)
        try:
            yield server
        finally:
            server.close()
            process.terminate()
