"""`GET /metrics` over HTTP: what moves when, what never becomes a label, what is left when a part is away."""

import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.schema import workers
from clip_pipeline.ledger.workers import SILENT_S, WorkerCard, WorkerReport, WorkerState, beat, register_worker
from clip_pipeline.observability.metrics import METRICS
from clip_pipeline.serving import scrape as scrape_module
from clip_pipeline_tests.defs.uploads import picture
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.ledger.steps import UNREADABLE
from clip_pipeline_tests.serving.lane import answer_all
from clip_pipeline_tests.serving.push.listening import event_stream
from clip_pipeline_tests.serving.world import World, free_port, serving

PATIENCE_S = 20
CARD = WorkerCard("gpu01", 4000, "gpu01", "NVIDIA H200", "gpu01", 17, "test", "f" * 64, "0.1", "1.13")


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(scrape_module, "KEPT_S", 0.0)
    monkeypatch.setattr(scrape_module, "PAUSE_PER_READING", 0)


def families_of(client):
    response = client.get("/metrics")
    assert response.status_code == 200
    return list(text_string_to_metric_families(response.text))


def values_of(client):
    """The value of each series: its name, then the values of its labels by the names of those."""
    samples = [sample for family in families_of(client) for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}


def until(client, holds):
    """The first scrape that `holds` is true of."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(values := values_of(client)):
        assert time.monotonic() < deadline, values
    return values


def until_value(client, series, value):
    return until(client, lambda values: values.get(series) == value)


def requests(client):
    """(method, route, status) -> how many."""
    return {key[1:]: value for key, value in values_of(client).items() if key[0] == "clip_http_requests_total"}


def test_the_answer_is_the_text_format_of_prometheus_or_openmetrics_for_who_accepts_it(client):
    plain = client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    accepting = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
    response = client.get("/metrics", headers=accepting)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics.text_string_to_metric_families(response.text)}
    assert {"clip_http_requests", "clip_ledger_files"} <= names
    # HTTP caches between must not hand one to who wants the other.
    assert (plain.headers["vary"], plain.headers["cache-control"]) == ("Accept", "no-store")


def test_a_scrape_of_a_service_in_use_shows_every_metric_and_no_other(world, client):
    world.index({"/photos/red.jpg": "a red thing"})
    until(client, lambda values: ("clip_index_images",) in values)
    client.get("/api/v1/search", params={"q": "red"})
    client.post("/analyze-image", files={"file": ("red.png", picture("red"))}, data={"labels": "red,blue"})
    answer_all(world)
    register_worker(world.ledger, CARD)
    until_value(client, ("clip_workers", "starting"), 1)
    until_value(client, ("clip_analysis_requests", "completed"), 1)
    shown = {(f.name + ("_total" if f.type == "counter" else ""), f.type) for f in families_of(client)}
    assert shown == {(metric.name, metric.kind) for metric in METRICS}


def test_requests_are_counted_by_route_method_and_class_of_status(client):
    for _ in range(3):
        client.get("/api/v1/index/status/idx_1")
    client.get("/api/v1/index/stats")
    client.delete("/health")
    client.get("/openapi.json")
    client.get("/ui/static/1/nothing.css")
    counted = requests(client)
    assert counted["GET", "/api/v1/index/status/{job_id}", "4xx"] == 3
    assert counted["GET", "/api/v1/index/stats", "2xx"] == 1
    assert counted["DELETE", "/health", "4xx"] == 1
    assert counted["GET", "/openapi.json", "2xx"] == 1
    assert counted["GET", "/ui/static/{version}", "4xx"] == 1
    assert requests(client)["GET", "/metrics", "2xx"] == 1  # the scrape before
    assert values_of(client)["clip_http_answer_seconds_count", "GET", "/api/v1/index/status/{job_id}"] == 3


def test_an_unexpected_error_counts_as_5xx(client, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("clip_pipeline.serving.routes.index.stats_document", fail)
    assert client.get("/api/v1/index/stats").status_code == 500
    assert requests(client)["GET", "/api/v1/index/stats", "5xx"] == 1


HOSTILE = (
    "/nowhere", "/%00", "/..%2f..%2fetc%2fpasswd", "/api/v1/index/status/" + "x" * 2000, "/a%22%7D%0Aclip_evil%201",
    "/status/%7Brequest_id%7D", "/ui/static/%2e%2e/secret", "/ui/failures/evil", "//evil.example/x", "/metrics/evil",
)  # fmt: skip


def test_nothing_that_a_client_makes_up_becomes_a_label(client):
    values_of(client)
    for number in range(50):
        client.get(f"/nowhere/{number}")
        client.get(f"/result/{number}", params={"q": f"evil{number}"}, headers={"X-Request-ID": f"evil{number}"})
    for path in HOSTILE:
        for method in ("GET", "PROPFIND", "TRACE", "POST"):
            client.send(httpx.Request(method, f"{client.base_url}".rstrip("/") + path))
    schema = client.get("/openapi.json").json()
    pages = {"/openapi.json", "/ui/static/{version}", "/ui/failures/{code}", "/ui/jobs/{job_id}", "other"}
    counted = requests(client)
    assert {route for _, route, _ in counted} <= {*schema["paths"], *pages}
    assert {method for method, _, _ in counted} == {"GET", "POST", "other"}
    assert counted["GET", "other", "4xx"] >= 50
    assert counted["GET", "/result/{request_id}", "4xx"] == 50
    text = client.get("/metrics").text
    assert "evil" not in text
    assert "nowhere" not in text


def test_refused_requests_and_websockets_are_counted_too(world, client):
    address = f"ws://127.0.0.1:{client.base_url.port}/ws/jobs/"
    job_id = world.register("/photos/red.jpg").job_id
    with connect(address + job_id, proxy=None) as socket:
        socket.recv(PATIENCE_S)
        assert requests(client)["WEBSOCKET", "/ws/jobs/{job_id}", "1xx"] == 1
    with pytest.raises(InvalidStatus):
        connect(address + job_id, proxy=None, origin=Origin("http://elsewhere.example"))
    client.get("/api/v1/index/stats", headers={"Host": "elsewhere.example"})
    counted = requests(client)
    # Refused before a route was looked for.
    assert (counted["WEBSOCKET", "other", "4xx"], counted["GET", "other", "4xx"]) == (1, 1)


def test_a_stream_of_events_counts_when_it_begins_and_its_listener_while_it_lasts(client):
    with event_stream(client):
        values = until_value(client, ("clip_push_listeners",), 1)
        assert values["clip_http_requests_total", "GET", "/events", "2xx"] == 1
        assert values["clip_http_answer_seconds_count", "GET", "/events"] == 1
    until_value(client, ("clip_push_listeners",), 0)


def test_searches_are_measured_by_part_and_texts_by_forward_pass(world, client):
    world.index({"/photos/red.jpg": "a red thing"})
    until(client, lambda values: ("clip_index_images",) in values)
    before = values_of(client)["clip_encoder_batch_texts_sum",]
    for text in ("red", "blue", "blue"):
        assert client.get("/api/v1/search", params={"q": text}).status_code == 200
    client.post("/api/v1/search", files={"file": ("red.png", picture("red"))})
    values = values_of(client)
    counts = {key[1]: value for key, value in values.items() if key[0] == "clip_search_part_seconds_count"}
    assert counts == {"encode": 4, "index": 4, "ledger": 4, "labels": 4, "decode": 1}
    assert values["clip_encoder_batch_texts_sum",] - before == 2  # the third text was remembered
    assert values["clip_encoder_text_seconds_count",] == values["clip_encoder_batch_texts_count",]


def test_numbers_move_with_registration_failures_and_publishing(world, client):
    values = until(client, lambda values: ("clip_ledger_files", "indexed") in values)
    assert (values["clip_ledger_files", "indexed"], values["clip_failed_files", "truncated"]) == (0, 0)
    assert ("clip_index_images",) not in values
    world.pin()
    contents = {"/photos/red.jpg": "a red thing", "/photos/torn.jpg": UNREADABLE, "/photos/blue.jpg": "a blue thing"}
    world.register(*contents)
    values = until_value(client, ("clip_ledger_files", "registered"), 3)
    until_value(client, ("clip_jobs", "queued"), 1)
    until_value(client, ("clip_queue_items", "inspection"), 3)
    world.embed(contents, failing={"/photos/blue.jpg": ReasonCode.NOT_FINITE})
    # Each of its own scrape: one that was made meanwhile has some parts from before, some from afterwards.
    until_value(client, ("clip_ledger_images", "embedded"), 1)
    until_value(client, ("clip_failed_files", "truncated"), 1)
    until_value(client, ("clip_failed_files", "not-finite"), 1)
    until(client, lambda values: (values["clip_jobs", "queued"], values["clip_jobs", "running"]) == (0, 1))
    release = world.publish()
    values = until_value(client, ("clip_index_release_number",), release.number)
    folder = world.store.release_dir(world.spec.key, release.number)
    assert values["clip_index_images",] == release.images == 1
    assert values["clip_index_bytes",] == sum(path.stat().st_size for path in folder.iterdir())
    assert values["clip_index_recall_ratio",] == release.recall
    assert values["clip_index_segments",] == len(release.segments)
    assert values["clip_index_release_age_seconds",] >= 0
    until_value(client, ("clip_ledger_files", "indexed"), 1)
    values = until_value(client, ("clip_jobs", "completed"), 1)
    assert values["clip_jobs", "running"] == 0
    until_value(client, ("clip_queue_items", "merge"), 0)
    world.index({"/photos/green.jpg": "a green thing"})
    until_value(client, ("clip_index_release_number",), release.number + 1)


def test_the_analysis_lane_is_seen_from_submission_to_result(world, client):
    world.pin()
    values = until(client, lambda values: ("clip_queue_oldest_seconds", "analysis") in values)
    assert values["clip_queue_oldest_seconds", "analysis"] == 0
    assert ("clip_analysis_processing_seconds",) not in values
    client.post("/analyze-image", files={"file": ("red.png", picture("red"))}, data={"labels": "red,blue"})
    until_value(client, ("clip_analysis_requests", "submitted"), 1)
    until(client, lambda values: values["clip_queue_oldest_seconds", "analysis"] > 0)
    answer_all(world)
    values = until_value(client, ("clip_analysis_requests", "completed"), 1)
    assert values["clip_analysis_requests", "submitted"] == 0
    until_value(client, ("clip_queue_oldest_seconds", "analysis"), 0)
    stats = client.get("/stats").json()
    assert values["clip_analysis_processing_seconds",] * 1000 == pytest.approx(
        stats["mean_processing_time_ms"], abs=0.1
    )


def test_images_embedded_are_counted_and_never_fewer(world, client):
    world.pin()
    world.register("/photos/red.jpg", "/photos/blue.jpg")
    (batch,) = steps.plan(world.ledger)
    until_value(client, ("clip_embedded_images_total",), 0)
    for processed, total in ((40, 40), (100, 100), (30, 130), (35, 135)):  # 30: its embedding began anew
        record_progress(world.ledger, batch, processed=processed, run_id="r")
        until_value(client, ("clip_embedded_images_total",), total)


def test_a_worker_is_seen_from_coming_to_its_silence(world, client):
    until(client, lambda values: values.get(("clip_workers", "ready")) == 0)
    session = register_worker(world.ledger, CARD)
    report = WorkerReport(WorkerState.BUSY, ["r1"], 61.5)
    assert beat(world.ledger, CARD.address, session=session, report=report)
    values = until_value(client, ("clip_workers", "busy"), 1)
    assert values["clip_worker_images_per_second", CARD.address] == 61.5
    assert 0 <= values["clip_worker_silent_seconds", CARD.address] < SILENT_S
    with world.ledger.write() as connection:
        connection.execute(workers.update().values(seen_at="2026-01-01T00:00:00.000Z"))
    values = until_value(client, ("clip_workers", "lost"), 1)
    assert ("clip_worker_images_per_second", CARD.address) not in values
    assert values["clip_worker_silent_seconds", CARD.address] > SILENT_S


def test_dagster_is_asked_for_its_runs_and_daemons_in_one_request(dagster, client):
    now = time.time()
    dagster.daemons = {"SENSOR": 40.0}
    dagster.add_run("idx_1", "r1", "STARTED", created=now - 500)
    dagster.add_run("idx_1", "r2", "QUEUED", created=now - 300)
    dagster.add_run("idx_1", "r3", "QUEUED", created=now - 100)
    dagster.add_run("idx_1", "r4", "SUCCESS", created=now - 900)
    values = until_value(client, ("clip_dagster_runs", "queued"), 2)
    shown = {status: values["clip_dagster_runs", status] for status in ("starting", "started", "success", "failure")}
    assert shown == {"starting": 0, "started": 1, "success": 1, "failure": 0}
    assert 300 <= values["clip_dagster_oldest_queued_seconds",] < 300 + PATIENCE_S
    assert 40 <= values["clip_dagster_heartbeat_age_seconds", "SENSOR"] < 40 + PATIENCE_S
    assert values["clip_dagster_up",] == 1
    pulses = [request["query"] for request in dagster.asked if "queued:" in request["query"]]
    assert all("daemonHealth" in query for query in pulses)


def test_code_locations_and_failed_ticks_of_the_last_hour_are_shown(dagster, client):
    now = time.time()
    dagster.locations = {"control": {"submissions": [now - 4000, now - 3000, now - 5], "watched": []}, "gpu": None}
    values = until_value(client, ("clip_dagster_sensor_failed_ticks", "submissions"), 2)
    assert values["clip_dagster_sensor_failed_ticks", "watched"] == 0
    assert (values["clip_dagster_location_up", "control"], values["clip_dagster_location_up", "gpu"]) == (1, 0)


def test_without_dagster_that_is_said_and_all_others_are_there(tmp_path):
    world = World(tmp_path, dagster_port=free_port())
    with serving(world) as client:
        values = until(client, lambda values: values["clip_scrape_errors_total", "sensors"] > 0)
        assert values["clip_dagster_up",] == 0
        assert [key for key in values if key[0].startswith("clip_dagster")] == [("clip_dagster_up",)]
        until_value(client, ("clip_ledger_files", "indexed"), 0)
    world.close()


def test_a_webserver_that_hangs_delays_no_scrape_after_the_first(dagster, client):
    until_value(client, ("clip_dagster_up",), 1)
    with dagster.hanging():
        asked = len(dagster.asked)
        values_of(client)
        took = []
        for _ in range(5):
            begun = time.monotonic()
            values = values_of(client)
            took.append(time.monotonic() - begun)
            assert values["clip_ledger_files", "indexed"] == 0
        assert len(dagster.asked) > asked
    # The scrape itself waits 0.1 s; the request to the webserver would last 3 s.
    assert min(took) < 1.0


def test_a_broken_ledger_leaves_the_rest(world, client):
    world.index({"/photos/red.jpg": "a red thing"})
    until_value(client, ("clip_index_images",), 1)
    with world.ledger.write() as connection:
        for table in ("files", "images", "jobs", "analysis_requests"):
            connection.exec_driver_sql(f"ALTER TABLE {table} RENAME TO lost_{table}")
    values = until(client, lambda values: ("clip_scrape_age_seconds", "files") not in values
                   and ("clip_scrape_age_seconds", "failures") not in values
                   and ("clip_scrape_age_seconds", "jobs") not in values
                   and ("clip_scrape_age_seconds", "analysis") not in values)  # fmt: skip
    gone = ("clip_ledger", "clip_failed", "clip_jobs", "clip_analysis")
    assert not [key for key in values if key[0].startswith(gone)]
    assert values["clip_index_images",] == 1
    assert values["clip_dagster_runs", "started"] == 0
    assert all(values["clip_scrape_errors_total", part] > 0 for part in ("files", "failures", "jobs", "analysis"))
    assert all(values["clip_scrape_errors_total", part] == 0 for part in ("index", "push"))


def test_two_services_in_one_process_count_for_themselves(client, dagster, tmp_path, new_ledger_url):
    other = World(tmp_path / "other", dagster_port=dagster.port, ledger_url=new_ledger_url())
    with serving(other) as second:
        other.index({"/photos/red.jpg": "a red thing"})
        for _ in range(4):
            second.get("/api/v1/index/stats")
        until_value(second, ("clip_ledger_files", "indexed"), 1)
        assert requests(second)["GET", "/api/v1/index/stats", "2xx"] == 4
        assert ("GET", "/api/v1/index/stats", "2xx") not in requests(client)
        until_value(client, ("clip_ledger_files", "indexed"), 0)
    other.close()


def test_it_needs_no_key_from_this_machine_and_one_that_reads_from_elsewhere(world, client):
    created = create_key(world.ledger, "test", scope=Scope.READ, expires_at=datetime.now(UTC) + timedelta(days=1))
    assert client.get("/metrics").status_code == 200
    elsewhere = {"X-Forwarded-For": "203.0.113.9"}
    assert client.get("/metrics", headers=elsewhere).status_code == 401
    with_key = elsewhere | {"Authorization": f"Bearer {created.token}"}
    assert client.get("/metrics", headers=with_key).status_code == 200
