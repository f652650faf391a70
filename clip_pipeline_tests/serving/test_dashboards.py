"""Dashboards and alerts against a real service: no name in them is made up, and a real Prometheus takes all of it."""

import json
import re
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.workers import WorkerReport, WorkerState, beat, register_worker
from clip_pipeline.serving import scrape as scrape_module
from clip_pipeline_tests.defs.uploads import picture
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.serving import prometheus
from clip_pipeline_tests.serving.lane import answer_all
from clip_pipeline_tests.serving.prometheus import (
    ALERTS,
    DASHBOARDS,
    DEPLOY,
    PROMETHEUS,
    PROMTOOL,
    alert_expressions,
    alert_rules,
    matchers_in,
    names_in,
    panel_expressions,
    prometheus_server,
)
from clip_pipeline_tests.serving.test_metrics import CARD
from clip_pipeline_tests.serving.world import StandInDagster, World, serving

TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
RUNBOOK = DEPLOY.parent / "docs" / "alerts.md"
with_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
with_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")

NOT_SEEN_HERE = {"5xx", "kafka_uploads"}
"""Values that a service shows which has failed, or which has a broker."""

OFTEN_EMPTY = {"Metrics that could not be read", "Requests that ended, per second"}
"""Panels that show nothing while all is well."""


class UsedService:
    """A service that has seen some of everything."""

    def __init__(self, world, client):
        self.world, self.client = world, client
        world.index({"/photos/red.jpg": "a red thing", "/photos/torn.jpg": steps.UNREADABLE})
        world.register("/photos/blue.jpg")
        (self._batch,) = steps.plan(world.ledger)
        self._session = register_worker(world.ledger, CARD)
        self._processed = 0
        self.use()

    def use(self):
        """A little of everything, once more."""
        assert beat(self.world.ledger, CARD.address, session=self._session,
                    report=WorkerReport(WorkerState.BUSY, ["r"], 61.5))  # fmt: skip
        self._processed += 1
        record_progress(self.world.ledger, self._batch, processed=self._processed, run_id="r")
        self.client.get("/api/v1/search", params={"q": f"red {self._processed}"})
        upload = {"file": ("red.png", picture("red"))}
        self.client.post("/analyze-image", files=upload, data={"labels": f"red,blue{self._processed}"})
        if self._processed == 1:
            answer_all(self.world)

    def scrape(self):
        return self.client.get("/metrics").text

    def samples(self):
        """Name -> labels -> the values seen."""
        found = {"up": {"job": {"clip-pipeline"}, "instance": set()}, "ALERTS": {}}  # Prometheus adds these
        for family in text_string_to_metric_families(self.scrape()):
            for sample in family.samples:
                labels = found.setdefault(sample.name, {"instance": set(), "job": set()})
                for label, value in sample.labels.items():
                    labels.setdefault(label, set()).add(value)
        return found


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    dagster = StandInDagster()
    dagster.locations = {"control": {"submissions": []}, "gpu": {"sealed_manifests": []}}
    world = World(tmp_path_factory.mktemp("home"), dagster_port=dagster.port)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scrape_module, "KEPT_S", 0.0)
        patched.setattr(scrape_module, "PAUSE_PER_READING", 0)
        with serving(world) as client:
            service = UsedService(world, client)
            while "clip_index_images" not in service.scrape() or "clip_dagster_location_up" not in service.scrape():
                pass  # the first readings are under way; the time limit of the test ends this
            yield service
    world.close()
    dagster.close()


@pytest.fixture(scope="module")
def samples(used):
    return used.samples()


@pytest.mark.parametrize("asked", [*panel_expressions(), *alert_expressions()], ids=lambda asked: asked.where)
def test_every_series_and_label_that_is_asked_for_exists_in_a_live_scrape(samples, asked):
    names = names_in(asked.expr)
    assert names
    assert names <= set(samples)
    for name, label, operator, value in matchers_in(asked.expr):
        seen = samples[name].get(label, set())
        wanted = set(value.split("|")) if "~" in operator else {value}
        assert wanted - NOT_SEEN_HERE <= seen, (name, label, value, seen)
    grouped = {label for labels in re.findall(r"\bby \(([^)]*)\)", asked.expr) for label in labels.split(", ")}
    assert grouped <= {"le", *(label for name in names for label in samples[name])}


def test_every_alert_says_what_it_means_and_what_to_do():
    headings = {line.removeprefix("## ") for line in RUNBOOK.read_text().splitlines() if line.startswith("## Clip")}
    assert {rule["alert"] for rule in alert_rules()} == headings
    for rule in alert_rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert f"*{rule['labels']['severity']}.*" in RUNBOOK.read_text().split(f"## {rule['alert']}\n")[1][:30]
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_every_alert_is_tested_where_it_fires_and_where_it_does_not():
    cases = [
        case for path in TESTS for test in yaml.safe_load(path.read_text())["tests"] for case in test["alert_rule_test"]
    ]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    names = {rule["alert"] for rule in alert_rules()}
    assert fires == names
    assert quiet == names


def test_dashboards_have_one_name_each_and_panels_that_do_not_overlap():
    documents = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert len({document["uid"] for document in documents}) == len(documents) == 5
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    for document in documents:
        cells = [
            (x, y)
            for panel in document["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
        used_sources = {t["datasource"]["uid"] for panel in document["panels"] for t in panel["targets"]}
        assert used_sources == {source["uid"] for source in sources}


@with_promtool
def test_promtool_finds_no_fault_with_configuration_and_rules(tmp_path):
    (tmp_path / "key").touch()
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    config = config.replace("/run/secrets/clip-pipeline/prometheus.key", str(tmp_path / "key"))
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "alerts.yml").write_bytes(ALERTS.read_bytes())
    promtool("check", "config", str(tmp_path / "prometheus.yml"))
    promtool("check", "rules", str(ALERTS))


@with_promtool
def test_every_alert_fires_when_it_should_and_is_quiet_when_not():
    promtool("test", "rules", *map(str, TESTS))


@with_promtool
def test_promtool_finds_no_fault_with_a_live_scrape(used):
    said = promtool("check", "metrics", stdin=used.scrape())
    assert said == ""


@with_prometheus
def test_a_real_prometheus_answers_every_panel_and_evaluates_every_alert(used, tmp_path):
    key = tmp_path / "key"
    tokens = {
        scope: create_key(used.world.ledger, scope, scope=scope, expires_at=datetime.now(UTC) + timedelta(days=1)).token
        for scope in (Scope.READ, Scope.WRITE)
    }
    key.write_text(tokens[Scope.READ])
    used.client.headers["Authorization"] = f"Bearer {tokens[Scope.WRITE]}"
    target = f"127.0.0.1:{used.client.base_url.port}"
    with prometheus_server(tmp_path, target=target, key=key) as server:
        server.wait('up{job="clip-pipeline"} == 1')
        for _ in range(3):
            before = server.query("clip_embedded_images_total")[0]["value"][1]
            used.use()
            server.wait(f"clip_embedded_images_total > {before}")
        empty = {asked.where for asked in panel_expressions() if not server.query(asked.expr)}
        rules = server.rules()
    assert {where.split(": ")[1] for where in empty} <= OFTEN_EMPTY
    assert set(rules) == {rule["alert"] for rule in alert_rules()}
    assert {rule["health"] for rule in rules.values()} == {"ok"}
    assert (tmp_path / "log").read_text().count("error") == 0


def promtool(*arguments, stdin=None):
    """What promtool has to say, which is nothing bad."""
    done = subprocess.run([str(prometheus.PROMTOOL), *arguments], input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr
