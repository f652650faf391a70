"""`clip-pipeline api` as a process of its own, without Dagster and without roots: what it says, and whom it lets in."""

import json
import subprocess

import httpx
import pytest

from clip_pipeline_tests.e2e import shapes
from clip_pipeline_tests.e2e.shapes import misfits
from clip_pipeline_tests.e2e.stack import COMMAND, Stack

ADD, STATS = "/api/v1/index/add-images", "/api/v1/index/stats"


@pytest.fixture
def service(stack: Stack) -> Stack:
    stack.home.mkdir()
    with (stack.home / "up.log").open("ab") as log:
        stack.process = subprocess.Popen([*COMMAND, "api"], env=stack.environment, stdout=log, stderr=log)
    stack.wait(lambda: answer_of(stack, "/health") is not None, "the service answers", 60)
    return stack


def answer_of(stack: Stack, path: str, **headers: str) -> httpx.Response | None:
    try:
        return httpx.get(stack.url + path, headers=headers, timeout=30, trust_env=False)
    except httpx.TransportError:
        return None


def check_problem(answer: httpx.Response, status: int) -> str:
    """The detail of an answer that must be a problem of this status."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert misfits(answer.json(), shapes.PROBLEM | {"status": status}) == []
    assert answer.headers["X-Request-ID"]
    return answer.json()["detail"]


def new_key(stack: Stack, scope: str) -> dict[str, str]:
    made = stack.run("keys", "create", f"for {scope}", "--scope", scope, "--json")
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)


@pytest.mark.timeout(300)
def test_a_service_alone_names_what_is_missing_and_from_the_first_key_on_asks_for_one(service: Stack):
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        assert "orchestrator" in check_problem(client.get("/health"), 503)
        body = {"image_paths": [str(service.watched / "a.jpg")]}
        assert "CLIP_PIPELINE_ROOTS" in check_problem(client.post(ADD, json=body), 422)
        assert client.get(STATS).status_code == 200

        reader, writer = new_key(service, "read"), new_key(service, "write")
        service.wait(lambda: client.get(STATS).status_code == 401, "the service knows of the key", 30)
        assert "X-API-Key" in check_problem(client.get(STATS), 401)
        check_problem(client.get(STATS, headers={"X-API-Key": "clip_none_" + "0" * 64}), 401)
        for headers in ({"X-API-Key": reader["key"]}, {"Authorization": f"Bearer {reader['key']}"}):
            assert client.get(STATS, headers=headers).status_code == 200
            assert "scope write" in check_problem(client.post(ADD, json=body, headers=headers), 403)
        check_problem(client.post(ADD, json=body, headers={"X-API-Key": writer["key"]}), 422)
        check_problem(client.get("/health"), 503)  # needs no key on this machine

        assert service.run("keys", "revoke", reader["id"]).returncode == 0
        headers = {"X-API-Key": reader["key"]}
        service.wait(lambda: client.get(STATS, headers=headers).status_code == 401, "the key is refused", 30)


def test_without_a_key_no_other_address_is_served(stack: Stack):
    stack.extra = {"CLIP_PIPELINE_HOST": "0.0.0.0"}
    refused = stack.run("api")
    assert refused.returncode == 3
    assert "keys create" in refused.stderr
    assert "Traceback" not in refused.stderr
