"""What holds for every route: health, problem documents, request ids, the log."""

import logging

import pytest

from clip_pipeline.core.errors import EncoderUnavailableError, NotFoundError, QueryError, StoreError
from clip_pipeline.serving import engine as engine_module
from clip_pipeline_tests.serving.world import World, free_port, serving


def test_health_is_ok_on_an_empty_home(client):
    response = client.get("/health")
    assert response.status_code == 200
    document = response.json()
    assert document["status"] == "ok"
    assert {name: part["status"] for name, part in document["parts"].items()} == dict.fromkeys(
        ("database", "index", "encoder", "orchestrator"), "ok"
    )


def test_health_names_the_orchestrator_when_dagster_is_away(tmp_path):
    world = World(tmp_path, dagster_port=free_port())
    with serving(world) as client:
        response = client.get("/health")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["failing"] == ["orchestrator"]
    assert "does not answer" in response.json()["detail"]
    world.close()


def test_health_names_a_silent_daemon(dagster, client):
    dagster.daemons = {"SENSOR": 500.0}
    response = client.get("/health")
    assert (response.status_code, response.json()["failing"]) == (503, ["orchestrator"])
    assert "SENSOR" in response.json()["detail"]


def test_health_names_the_database_when_it_cannot_be_read(world, client):
    assert client.get("/health").status_code == 200
    with world.ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE images RENAME TO lost")
    response = client.get("/health")
    assert (response.status_code, response.json()["failing"]) == (503, ["database"])


def test_health_names_the_index_when_the_pinned_encoder_is_unreadable(world):
    world.store.root.mkdir(parents=True)
    world.store.pinned_encoder_path.write_text("{}")
    with serving(world) as client:
        assert "index" in client.get("/health").json()["failing"]
        assert client.get("/api/v1/search", params={"q": "cat"}).status_code == 503


def test_the_root_says_where_to_go_on(client, dagster):
    document = client.get("/").json()
    assert document["service"] == "clip-pipeline"
    assert document["links"]["dagster"] == f"http://127.0.0.1:{dagster.port}"
    for name, link in document["links"].items():
        if name != "dagster":
            assert client.get(link).status_code == 200, name


def test_index_routes_answer_the_documents(world, client):
    job_id = world.index({"/photos/red.jpg": "a red thing"})
    assert client.get("/api/v1/index/stats").json()["total_images"] == 1
    assert client.get("/api/v1/index/status").json()["recent_jobs"][0]["job_id"] == job_id
    assert client.get(f"/api/v1/index/status/{job_id}").json()["status"] == "completed"


@pytest.mark.parametrize(
    ("method", "path", "status", "title"),
    [
        ("GET", "/nowhere", 404, "Not Found"),
        ("DELETE", "/health", 405, "Method Not Allowed"),
        ("GET", "/api/v1/index/status/idx_nope", 404, "Not Found"),
        ("GET", "/redoc", 404, "Not Found"),
    ],
)
def test_errors_of_the_framework_are_problems_too(client, method, path, status, title):
    response = client.request(method, path)
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert (response.status_code, document["status"], document["title"]) == (status, status, title)
    assert document["type"] == "about:blank"
    assert document["detail"]


def test_a_request_id_is_echoed_or_made(client):
    echoed = client.get("/health", headers={"X-Request-ID": "my-id/7"})
    assert echoed.headers["X-Request-ID"] == "my-id/7"
    made = {client.get("/nowhere").headers["X-Request-ID"] for _ in range(3)}
    assert len(made) == 3
    replaced = client.get("/", headers={"X-Request-ID": "x" * 500}).headers["X-Request-ID"]
    assert len(replaced) == 32


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QueryError("bad"), 422),
        (NotFoundError("gone"), 404),
        (StoreError("torn"), 503),
        (EncoderUnavailableError("no weights"), 503),
    ],
)
def test_an_error_of_the_project_becomes_its_status(client, monkeypatch, error, status):
    def fail(*_):
        raise error

    monkeypatch.setattr(engine_module.SearchEngine, "search", fail)
    response = client.get("/api/v1/search", params={"q": "cat"})
    assert (response.status_code, response.json()["detail"]) == (status, str(error))


def test_an_unexpected_error_is_a_problem_without_its_trace(client, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(engine_module.SearchEngine, "search", fail)
    with caplog.at_level(logging.INFO):
        response = client.get("/api/v1/search", params={"q": "cat"}, headers={"X-Request-ID": "abc"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] == "abc"
    assert "secret" not in response.text
    assert "abc" in response.json()["detail"]
    (failure,) = [record for record in caplog.records if record.message == "request failed"]
    assert failure.exc_info is not None


def test_each_request_is_one_line_without_what_was_searched(world, caplog):
    with caplog.at_level(logging.INFO), serving(world) as client:
        client.get("/api/v1/search", params={"q": "something private"}, headers={"X-Request-ID": "abc"})
    (line,) = [record for record in caplog.records if record.message == "request"]
    assert (line.method, line.path, line.status, line.request_id) == ("GET", "/api/v1/search", 200, "abc")
    assert line.duration_ms > 0
    ours = [record for record in caplog.records if record.name.partition(".")[0] != "httpx"]
    assert not [record for record in ours if "private" in record.getMessage() or "private" in str(vars(record))]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/search", "GET, POST"),
        ("POST", "/health", "GET"),
        ("PUT", "/api/v1/index/images", "GET, DELETE"),
    ],
)
def test_a_method_that_a_path_does_not_know_is_answered_with_those_it_does(client, method, path, allowed):
    """The header named the methods of one route of the path, then of none."""
    response = client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)
