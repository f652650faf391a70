"""A real Redis for tests, on a free port, gone with the test."""

import contextlib
import shutil
import subprocess

import pytest

from clip_pipeline_tests.serving.world import free_port


@contextlib.contextmanager
def redis_server(folder):
    """The URL of a server that answers. Skips the test where the program is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs the program redis-server")
    port = free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    for line in server.stdout:
        if "Ready to accept connections" in line:
            break
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.communicate()
