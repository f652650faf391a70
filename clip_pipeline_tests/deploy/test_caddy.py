"""The Caddyfile in a real Caddy, before the real service and two real Dagster webservers."""

import base64
import json
import os
import subprocess

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline_tests.deploy.front import (
    CADDY,
    CADDYFILE,
    OPERATOR,
    PASSWORD,
    READ_ONLY,
    READ_WRITE,
    caddy,
    password_hash,
    trusting,
    webservers,
)
from clip_pipeline_tests.serving.push.listening import event_stream, frames, messages
from clip_pipeline_tests.serving.world import World, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CADDY is None, reason="caddy is not installed"),
]

LOGIN = httpx.BasicAuth(OPERATOR, PASSWORD)
LAUNCH = """mutation {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "control", repositoryName: "__repository__", jobName: "expire_analyses"}
    runConfigData: {}
  }) { __typename ... on LaunchRunSuccess { run { status } } ... on PythonError { message } }
}"""
RED = {"/photos/red.jpg": "a red thing"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("front")


@pytest.fixture(scope="module")
def world(folder):
    opened = World(folder / "home")
    opened.index(RED)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def key(world):
    """A key that may read, sent as a program would."""
    return create_key(world.ledger, "reader", scope=Scope.READ, expires_at=None).token


@pytest.fixture(scope="module")
def front(folder, world, key):
    """(a client without key or password, where Caddy's authority is)."""
    assert key
    with (
        webservers(folder / "dagster") as dagster_ports,
        serving(world) as service,
        caddy(folder / "caddy", api_ports=[service.base_url.port], dagster_ports=dagster_ports) as opened,
    ):
        yield opened


@pytest.fixture
def client(front):
    return front[0]


@pytest.fixture
def reader(key):
    return {"Authorization": f"Bearer {key}"}


def open_socket(front, path, **options):
    client, authority = front
    url = str(client.base_url.join(path)).replace("https", "wss", 1)
    return connect(url, ssl=trusting(authority), open_timeout=20, proxy=None, **options)


def basic():
    return {"Authorization": "Basic " + base64.b64encode(f"{OPERATOR}:{PASSWORD}".encode()).decode()}


def test_the_dagster_ui_asks_for_a_log_in(client):
    refused = client.get(f"{READ_WRITE}/")
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert client.get(f"{READ_WRITE}/", auth=(OPERATOR, "wrong")).status_code == 401
    assert client.post(f"{READ_WRITE}/graphql", json={"query": "{ version }"}).status_code == 401


def test_an_operator_sees_the_dagster_ui_and_launches_runs(client):
    page = client.get(f"{READ_WRITE}/", auth=LOGIN)
    assert (page.status_code, f'"pathPrefix": "{READ_WRITE}"' in page.text) == (200, True)
    answer = client.post(f"{READ_WRITE}/graphql", json={"query": LAUNCH}, auth=LOGIN).json()
    assert answer["data"]["launchRun"] == {"__typename": "LaunchRunSuccess", "run": {"status": "QUEUED"}}


def test_nobody_without_a_key_sees_even_the_read_only_ui(client):
    assert client.get(f"{READ_ONLY}/").status_code == 401
    sent_on = client.get(f"{READ_ONLY}/", headers={"Accept": "text/html"})
    assert (sent_on.status_code, sent_on.headers["location"].split("?")[0]) == (303, "/ui/login")


def test_the_read_only_ui_shows_all_and_refuses_a_launch(client, reader):
    page = client.get(f"{READ_ONLY}/", headers=reader)
    assert (page.status_code, f'"pathPrefix": "{READ_ONLY}"' in page.text) == (200, True)
    asked = client.post(f"{READ_ONLY}/graphql", json={"query": "{ version }"}, headers=reader).json()
    assert asked["data"]["version"]
    refused = client.post(f"{READ_ONLY}/graphql", json={"query": LAUNCH}, headers=reader).json()
    assert refused["data"]["launchRun"]["__typename"] == "UnauthorizedError"


def test_whoever_logged_in_at_the_pages_sees_the_read_only_ui_but_not_the_other(front, key):
    client, authority = front
    with httpx.Client(base_url=client.base_url, verify=trusting(authority), trust_env=False) as person:
        site = str(client.base_url).rstrip("/")
        logged_in = person.post("/ui/login", data={"api_key": key}, headers={"Origin": site})
        assert logged_in.status_code == 303, logged_in.text
        assert person.cookies.get("__Host-clip_session")
        assert person.get(f"{READ_ONLY}/").status_code == 200
        assert person.get(f"{READ_WRITE}/").status_code == 401


@pytest.mark.parametrize("prefix", [READ_WRITE, READ_ONLY])
def test_pages_of_other_sites_may_not_use_the_log_in_of_a_browser(client, reader, prefix):
    headers = reader if prefix == READ_ONLY else basic()
    asked = {"params": {"query": "{ version }"}, "headers": headers | {"Sec-Fetch-Site": "cross-site"}}
    assert client.get(f"{prefix}/graphql", **asked).status_code == 403
    for site in ("same-origin", "none"):
        asked["headers"]["Sec-Fetch-Site"] = site
        assert client.get(f"{prefix}/graphql", **asked).status_code == 200


@pytest.mark.parametrize("prefix", [READ_WRITE, READ_ONLY])
def test_live_updates_of_the_dagster_ui_pass(front, reader, prefix):
    headers = reader if prefix == READ_ONLY else basic()
    with open_socket(front, f"{prefix}/graphql", additional_headers=headers, subprotocols=["graphql-ws"]) as socket:
        socket.send(json.dumps({"type": "connection_init", "payload": {}}))
        assert json.loads(socket.recv(timeout=20))["type"] == "connection_ack"


@pytest.mark.parametrize("prefix", [READ_WRITE, READ_ONLY])
def test_live_updates_need_the_log_in_too(front, prefix):
    with pytest.raises(InvalidStatus) as refused:
        open_socket(front, f"{prefix}/graphql", subprotocols=["graphql-ws"])
    assert refused.value.response.status_code == 401


def test_the_api_answers_who_has_a_key_and_nobody_else(client, reader):
    assert client.get("/api/v1/search", params={"q": "a red thing"}).status_code == 401
    found = client.get("/api/v1/search", params={"q": "a red thing"}, headers=reader).json()
    assert [hit["path"] for hit in found["results"]] == ["/photos/red.jpg"]
    assert client.get("/metrics", headers=reader).status_code == 200


def test_the_service_believes_caddy_that_the_browser_spoke_https(client):
    answer = client.get("/ui/login")
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert len(answer.headers.get_list("x-content-type-options")) == 1
    assert "server" not in answer.headers


def test_a_stream_of_events_passes_as_it_comes(front, reader, world):
    client, authority = front
    with (
        httpx.Client(base_url=client.base_url, verify=trusting(authority), headers=reader, trust_env=False) as listener,
        event_stream(listener) as response,
    ):
        job_id = world.register("/photos/later.jpg").job_id
        told = next(json.loads(frame["data"]) for frame in frames(response) if frame.get("event") == "job")
        assert told["job_id"] == job_id


def test_a_websocket_on_a_job_passes(front, reader, world):
    job_id = world.register("/photos/watched.jpg").job_id
    with open_socket(front, f"/ws/jobs/{job_id}", additional_headers=reader) as socket:
        assert next(messages(socket))["job_id"] == job_id


def test_without_a_password_caddy_does_not_start():
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_PASSWORD_HASH"}
    command = [CADDY, "validate", "--config", str(CADDYFILE), "--adapter", "caddyfile"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    accepted = subprocess.run(
        command, env=environment | {"DAGSTER_PASSWORD_HASH": password_hash("x")}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert accepted.returncode == 0, accepted.stderr
