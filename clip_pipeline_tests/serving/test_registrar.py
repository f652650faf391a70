"""Large submissions: registered in a process of their own, as small ones are, whatever happens to that process."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from clip_pipeline.ledger.schema import files
from clip_pipeline.serving.registrar import SMALL_BYTES
from clip_pipeline_tests.serving.world import World, free_port, serving

ADD = "/api/v1/index/add-images"
LARGE = b" " * SMALL_BYTES
"""White space before a body makes it a large one."""

SERVE = "from clip_pipeline.serving.server import serve; from clip_pipeline.settings import Settings; serve(Settings())"
PATIENCE_S = 30.0


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "sub/c.jpg"):
        (root / name).write_bytes(name.encode())
    return root


@pytest.fixture
def world(tmp_path, dagster, photos):
    opened = World(tmp_path / "home", dagster_port=dagster.port, roots=str(photos))
    yield opened
    opened.close()


def add(client, body, *, padding=LARGE, key=None):
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(ADD, content=padding + content, headers=headers)


def registered(world):
    with world.ledger.read() as connection:
        return set(connection.execute(files.select().with_only_columns(files.c.path)).scalars())


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.01)  # not spinning: what is waited for needs the core
    return found


def child_in_ledger(parent):
    """The pid of a child that has a ledger open, or None."""
    for listing in Path(f"/proc/{parent}/task").glob("*/children"):
        with suppress(OSError, psutil.Error):
            for pid in listing.read_text().split():
                if has_ledger(int(pid)):
                    return int(pid)
    return None


def has_ledger(pid):
    if port := urlsplit(os.environ.get("CLIP_PIPELINE_LEDGER_URL", "")).port:
        return any(made.raddr and made.raddr.port == port for made in psutil.Process(pid).net_connections())
    return any(os.readlink(link).endswith("ledger.sqlite3") for link in Path(f"/proc/{pid}/fd").iterdir())


def is_running(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(
    "body",
    [
        {"image_paths": ["/etc/passwd", "relative", "{root}/sub"]},
        {"image_paths": ["{root}/a.jpg"], "recursive_dirs": ["{root}/none", "/etc"]},
        {"image_paths": ["{root}/a.jpg", 7], "priority": "high"},
        {"image_paths": ["/a"] * 100_001},
        {"image_paths": []},
        b'{"image_paths": [',
        b"[" * 100_000,
    ],
)
def test_what_is_refused_in_a_large_body_is_refused_as_in_a_small_one(world, client, photos, body):
    content = body if isinstance(body, bytes) else json.dumps(body).replace("{root}", str(photos)).encode()
    small, large = add(client, content, padding=b""), add(client, content)
    assert large.status_code == 422
    assert large.headers["content-type"] == "application/problem+json"
    # Where in the text the JSON broke off differs: the padding moved it.
    told = [error["field"] for error in large.json()["errors"]]
    assert told == [error["field"] for error in small.json()["errors"]]
    assert registered(world) == set()


def test_a_large_submission_counts_and_repeats_as_a_small_one(world, client, photos):
    body = {"image_paths": [f"{photos}/a.jpg", f"{photos}/a.jpg", f"{photos}/gone.jpg"], "priority": 3}
    first = add(client, body, key="k")
    assert (first.status_code, first.json()["new_images_count"], first.json()["images_count"]) == (202, 2, 2)
    for padding in (LARGE, b""):
        again = add(client, body, padding=padding, key="k")
        assert (again.status_code, again.json()) == (202, first.json())
    other = add(client, {"image_paths": [f"{photos}/b.jpg"]}, key="k")
    assert (other.status_code, "another request" in other.json()["detail"]) == (409, True)
    assert registered(world) == {f"{photos}/a.jpg", f"{photos}/gone.jpg"}


def test_folders_are_walked_in_a_process(world, client, photos):
    assert add(client, {"recursive_dirs": [str(photos)]}, padding=b"").json()["images_count"] == 3
    assert registered(world) == {f"{photos}/a.jpg", f"{photos}/b.jpg", f"{photos}/sub/c.jpg"}


def test_a_process_killed_while_it_registers_leaves_nothing_and_the_same_request_completes_it(world, client, photos):
    body = {"image_paths": [f"{photos}/a.jpg"]}
    with ThreadPoolExecutor(1) as pool, world.ledger.write():
        answer = pool.submit(add, client, body, key="k")
        os.kill(wait_until(lambda: child_in_ledger(os.getpid())), signal.SIGKILL)
        killed = answer.result(PATIENCE_S)
    assert killed.status_code == 503
    assert "Idempotency-Key" in killed.json()["detail"]
    assert registered(world) == set()
    assert add(client, body, key="k").json()["new_images_count"] == 1


@pytest.mark.usefixtures("world")
def test_health_answers_while_another_writer_holds_the_ledger(world, client, photos):
    """Submissions that wait for the lock, more than there are threads and processes for, keep nobody else waiting."""
    body = {"image_paths": [f"{photos}/a.jpg"]}
    with ThreadPoolExecutor(9) as pool:
        with world.ledger.write():
            waiting = [pool.submit(add, client, body, padding=padding) for padding in [b""] * 6 + [LARGE] * 3]
            wait_until(lambda: child_in_ledger(os.getpid()))
            assert client.get("/health").status_code == 200
            assert not any(answer.done() for answer in waiting)
        assert sum(answer.result(PATIENCE_S).json()["new_images_count"] for answer in waiting) == 1


@pytest.mark.parametrize("padding", [b"", LARGE])
def test_a_ledger_locked_for_too_long_is_a_problem_that_says_when_to_come_back(tmp_path, dagster, photos, padding):
    """It was a 500: the driver's own error went through to the framework."""
    url = f"sqlite:///{tmp_path}/other/ledger.sqlite3?timeout=0.1"
    world = World(tmp_path / "other", dagster_port=dagster.port, roots=str(photos), ledger_url=url)
    body = {"image_paths": [f"{photos}/a.jpg"]}
    with serving(world) as client:
        with world.ledger.write():
            response = add(client, body, padding=padding)
        assert (response.status_code, response.headers["content-type"]) == (503, "application/problem+json")
        assert int(response.headers["retry-after"]) > 0
        assert "try again" in response.json()["detail"]
        assert add(client, body, padding=padding).status_code == 202
    world.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_the_service_and_nothing_is_registered_by_it(world, photos, number):
    port = free_port()
    env = os.environ | {"CLIP_PIPELINE_HOME": str(world.settings.home_path), "CLIP_PIPELINE_PORT": str(port),
                        "CLIP_PIPELINE_ROOTS": str(photos)}  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with (
        subprocess.Popen([sys.executable, "-c", SERVE], env=env, stderr=subprocess.DEVNULL) as service,
        ThreadPoolExecutor(1) as pool,
        httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        wait_until(lambda: answers(client))
        with world.ledger.write():
            answer = pool.submit(add, client, {"image_paths": [f"{photos}/a.jpg"]})
            child = wait_until(lambda: child_in_ledger(service.pid))
            service.send_signal(number)
            if number == signal.SIGTERM:
                assert service.wait(PATIENCE_S) == 0
            wait_until(lambda: not is_running(child))
        with suppress(httpx.HTTPError):
            assert answer.result(PATIENCE_S).status_code >= 500
    assert registered(world) == set()


def answers(client):
    with suppress(httpx.HTTPError):
        return client.get("/").status_code == 200
    return False
