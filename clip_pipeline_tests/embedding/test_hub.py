"""Asking the hub, against a small server on this machine."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from clip_pipeline.embedding.hub import hub_answers, is_local


class Hub(BaseHTTPRequestHandler):
    """Knows one model."""

    def do_HEAD(self) -> None:
        is_known = self.path == "/owner/known/resolve/main/config.json"
        self.send_response(200 if is_known else 404)
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", "2")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_hub_that_serves_the_model_answers(endpoint):
    assert hub_answers("owner/known", timeout_s=30, endpoint=endpoint) is None


def test_a_hub_that_does_not_know_the_model_gives_a_reason(endpoint):
    reason = hub_answers("owner/unknown", timeout_s=30, endpoint=endpoint)
    assert reason is not None
    assert "owner/unknown" in reason


def test_a_hub_that_accepts_and_never_answers_is_given_up_on():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        reason = hub_answers("owner/known", timeout_s=0.2, endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 5
    assert reason is not None


def test_offline_mode_asks_nobody(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_answers("owner/known", timeout_s=30, endpoint=endpoint) == "HF_HUB_OFFLINE is set"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/clip", False),
        ("gpt2", False),
        ("/a", True),
        ("./a", True),
        ("../a", True),
        ("~/a", True),
        ("a/b/c", True),
    ],
)
def test_hub_ids_are_told_from_paths(name, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert is_local(name) is expected
