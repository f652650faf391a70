"""The health check of containers: against servers that answer, refuse, and are not there."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from clip_pipeline_tests.serving.world import free_port

PROBE = Path(__file__).resolve().parents[2] / "deploy" / "probe.py"


def probe(address):
    return subprocess.run([sys.executable, str(PROBE), address], capture_output=True, timeout=60).returncode


@contextmanager
def web_server(status):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/health"
        server.shutdown()
        thread.join()


@contextmanager
def code_server(status):
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    servicer.set("DagsterApi", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize("status", [200, 401, 503])
def test_any_answer_over_http_is_a_sign_of_life(status):
    with web_server(status) as address:
        assert probe(address) == 0


@pytest.mark.parametrize(
    ("status", "ended"),
    [(health_pb2.HealthCheckResponse.SERVING, 0), (health_pb2.HealthCheckResponse.NOT_SERVING, 1)],
)
def test_a_code_server_has_to_say_that_it_serves(status, ended):
    with code_server(status) as address:
        assert probe(address) == ended


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there_is_no_answer(scheme):
    assert probe(f"{scheme}://127.0.0.1:{free_port()}") == 1
