"""Clients of the push routes as tests use them: parsed events, parsed messages, how a connection was closed."""

import contextlib
import json

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

PATIENCE_S = 20

SERVE = """
from clip_pipeline.serving.server import serve
from clip_pipeline.settings import Settings
from clip_pipeline_tests.fakes import HashEncoder

serve(Settings(log_format="json"), load=lambda spec: HashEncoder())
"""


def port_of(process):
    """Where the child listens, once it has said so in its log."""
    for line in process.stderr:
        if port := json.loads(line).get("port"):
            return port
    raise AssertionError("the service ended before it served")


def frames(response):
    """The frames of an event stream as dictionaries; comments under the name `comment`."""
    frame = {}
    for line in response.iter_lines():
        if not line:
            yield frame
            frame = {}
            continue
        name, _, value = line.partition(":")
        frame[name or "comment"] = value.strip()


def job_events(response):
    """(id, document) of each job event."""
    return events_of(response, "job")


def events_of(response, topic):
    """(id, document) of each event of a topic."""
    for frame in frames(response):
        if frame.get("event") == topic:
            yield frame["id"], json.loads(frame["data"])


@contextlib.contextmanager
def event_stream(client, *, last=None):
    """An open stream of `GET /events`."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with client.stream("GET", "/events", headers=headers, timeout=PATIENCE_S) as response:
        assert response.status_code == 200
        yield response


def job_socket(client, job_id):
    """An open WebSocket on one job."""
    return push_socket(client, f"jobs/{job_id}")


@contextlib.contextmanager
def push_socket(client, subject):
    """An open WebSocket on a job or a request."""
    url = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    with connect(f"{url}/ws/{subject}", open_timeout=PATIENCE_S, proxy=None) as socket:
        yield socket


def messages(socket):
    """Every document until the connection is closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield json.loads(socket.recv(timeout=PATIENCE_S))
