"""The OpenAPI schema against the real application: what fits it is answered as it says, what does not is refused.

Schemathesis asks over real HTTP, as from the command line, so that a failure prints the request to repeat with curl.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline_tests.fakes import COLOURS
from clip_pipeline_tests.serving.world import World, serving

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
CONFIG = Path(__file__).with_name("schemathesis.toml")
WITHOUT_END = "/events"  # a stream that goes on until the client leaves

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def world(tmp_path, dagster):
    """An index, a job that waits, and more requests in a minute than a fuzzer makes."""
    limits = {"rate_limit": "1000000/minute", "rate_limit_local": "1000000/minute"}
    opened = World(tmp_path / "home", dagster_port=dagster.port, roots=str(tmp_path), **limits)
    opened.index({f"/photos/{name}.jpg": f"a {name} thing" for name in COLOURS})
    opened.register("/photos/waiting.jpg")
    yield opened
    opened.close()


def fuzz(client, folder, *options):
    """Run Schemathesis in `folder`, the same requests every time; returns what it printed."""
    command = [SCHEMATHESIS, "--config-file", CONFIG, "run", f"{client.base_url}/openapi.json"]
    fixed = ["--exclude-path", WITHOUT_END, "--generation-deterministic", "--continue-on-failure", "--warnings", "off"]
    fixed += ["--request-timeout", "60"]  # the first upload waits for a process that decodes it
    done = subprocess.run([*command, *fixed, *options], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def operations(client, **headers):
    paths = client.get("/openapi.json", headers=headers).json()["paths"]
    return sum(len(methods) for path, methods in paths.items() if path != WITHOUT_END)


def check_all_were_tested(told, count):
    assert re.findall(r"Tested: +(\d+)", told) == [str(count)]
    ((generated, passed),) = re.findall(r"(\d+) generated, (\d+) passed", told)
    assert int(generated) == int(passed) > 20 * count


def test_the_open_service_answers_whatever_is_asked_as_its_schema_says(world, tmp_path):
    with serving(world) as client:
        told = fuzz(client, tmp_path, "-n", "10", "--phases", "examples,coverage,fuzzing",
                    "--exclude-checks", "ignored_auth")  # fmt: skip
        check_all_were_tested(told, operations(client))


def test_no_route_of_a_service_with_keys_answers_without_a_valid_one(world, tmp_path):
    key = create_key(world.ledger, "fuzzer", scope=Scope.ADMIN, expires_at=None).token
    headers = {"Authorization": f"Bearer {key}"}
    with serving(world) as client:
        told = fuzz(client, tmp_path, "-n", "3", "--phases", "coverage,fuzzing", "--header",
                    f"Authorization:{headers['Authorization']}")  # fmt: skip
        check_all_were_tested(told, operations(client, **headers))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_long_fuzzing_with_requests_that_follow_from_answers_finds_nothing(world, tmp_path):
    with serving(world) as client:
        told = fuzz(client, tmp_path, "-n", "400", "--exclude-checks", "ignored_auth")
        check_all_were_tested(told, operations(client))
