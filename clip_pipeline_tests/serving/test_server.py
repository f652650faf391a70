"""The service as a process: where it may listen, how it ends."""

import http.client
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import httpx
import pytest

from clip_pipeline.core.errors import ConfigurationError, StoreError
from clip_pipeline.ledger.api_keys import Scope, create_key, revoke_key
from clip_pipeline.serving.server import bind, check_reach, serve
from clip_pipeline_tests.serving.world import World, settings_of

SERVE = """
import sys
from clip_pipeline.serving.server import serve
from clip_pipeline.settings import Settings
from clip_pipeline_tests.fakes import HashEncoder

def load(spec):
    sys.stderr.write("loading\\n")  # in one piece: the log is written by other threads
    sys.stdin.readline()
    return HashEncoder()

serve(Settings(), load=load)
"""


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path / "home")
    yield opened
    opened.close()


@pytest.fixture
def process(world):
    world.index({"/photos/red.jpg": "a red thing"})
    env = os.environ | {
        "CLIP_PIPELINE_HOME": str(world.settings.home_path),
        "CLIP_PIPELINE_PORT": "0",
        "CLIP_PIPELINE_LOG_FORMAT": "json",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE], env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield child
    child.kill()
    child.communicate()


def port_of(process):
    """Where the child listens, once its encoder is loading."""
    port = 0
    for line in process.stderr:
        if line == "loading\n":
            return port
        port = json.loads(line).get("port", port)
    raise AssertionError("the service ended before it served")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_under_way_end_and_the_process_with_status_zero(process, number):
    port = port_of(process)
    search = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    search.request("GET", "/api/v1/search?q=red")
    # Requests are read in order of arrival: when this one is answered the search is under way, waiting for weights.
    assert httpx.get(f"http://127.0.0.1:{port}/api/v1/index/stats").json()["total_images"] == 1
    process.send_signal(number)
    for line in process.stderr:
        if "Shutting down" in line or "Waiting for" in line:
            break
    process.stdin.write("go on\n")
    process.stdin.flush()
    answer = json.loads(search.getresponse().read())
    search.close()
    assert [result["path"] for result in answer["results"]] == ["/photos/red.jpg"]
    assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_addresses_are_served(tmp_path, host):
    check_reach(settings_of(tmp_path, host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "example.org", ""])
def test_any_other_address_is_refused_while_there_are_no_keys(tmp_path, host):
    with pytest.raises(ConfigurationError, match=r"keys create NAME`, or set CLIP_PIPELINE_HOST=127.0.0.1"):
        serve(settings_of(tmp_path, host=host))
    assert list(tmp_path.iterdir()) == []


def test_any_other_address_is_served_while_a_key_is_valid(world):
    settings = settings_of(world.settings.home_path, host="0.0.0.0")
    key = create_key(world.ledger, "a", scope=Scope.READ, expires_at=None).key
    create_key(world.ledger, "b", scope=Scope.ADMIN, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    check_reach(settings)
    revoke_key(world.ledger, key.key_id)
    with pytest.raises(ConfigurationError, match="no key is valid"):
        check_reach(settings)


def test_a_port_in_use_is_named_with_the_setting():
    with (
        bind("127.0.0.1", 0) as taken,
        pytest.raises(ConfigurationError, match=r"in use.*set CLIP_PIPELINE_PORT"),
    ):
        bind("127.0.0.1", taken.getsockname()[1])


def test_a_ledger_that_cannot_be_opened_is_an_error_of_the_call(tmp_path):
    (tmp_path / "ledger.sqlite3").mkdir()
    with pytest.raises(StoreError, match="cannot open the ledger"):
        serve(settings_of(tmp_path, port=0, ledger_url=f"sqlite:///{tmp_path}/ledger.sqlite3"))
