"""Push over real connections: WebSockets on one job, server-sent events on all, across a restart."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline_tests.serving.push.listening import (
    SERVE,
    event_stream,
    frames,
    job_events,
    job_socket,
    messages,
    port_of,
)
from clip_pipeline_tests.serving.world import serving

RED, BLUE = {"/photos/red.jpg": "a red thing"}, {"/photos/blue.jpg": "a blue thing"}


def finish(world, contents):
    world.embed(contents)
    world.publish()


def status_of(client, job_id):
    return client.get(f"/api/v1/index/status/{job_id}").json()


def test_a_socket_tells_the_state_at_once_then_each_change_and_closes_normally_at_the_end(world, client):
    world.pin()
    contents = RED | BLUE
    job_id = world.register(*contents).job_id
    with job_socket(client, job_id) as socket:
        told = messages(socket)
        assert next(told) == status_of(client, job_id)
        finish(world, contents)
        *_, last = told
        assert socket.close_code == 1000
    assert last == status_of(client, job_id)
    assert (last["status"], last["progress"]["processed_images"]) == ("completed", 2)


def test_a_socket_on_a_job_that_is_complete_tells_it_and_closes(world, client):
    job_id = world.index(RED)
    with job_socket(client, job_id) as socket:
        assert list(messages(socket)) == [status_of(client, job_id)]
        assert socket.close_code == 1000


def test_a_socket_on_an_unknown_job_is_told_so_and_closed_with_4404(client):
    with job_socket(client, "idx_nothing") as socket:
        (problem,) = messages(socket)
        assert (problem["status"], problem["title"]) == (404, "Not Found")
        assert "idx_nothing" in problem["detail"]
        assert socket.close_code == 4404


def test_a_socket_sees_what_changes_at_dagster_alone(world, client, dagster):
    job_id = world.register("/photos/red.jpg").job_id
    with job_socket(client, job_id) as socket:
        told = messages(socket)
        assert next(told)["status"] == "queued"
        dagster.add_run(job_id, "run-1", "STARTED", start=time.time())
        assert next(told)["runs"][0]["run_id"] == "run-1"


def test_events_begin_with_the_open_jobs_and_go_on_with_every_change(world, client):
    world.pin()
    first = world.register(*RED).job_id
    with event_stream(client) as response:
        told = job_events(response)
        assert next(told)[1]["job_id"] == first
        second = world.register(*BLUE).job_id
        assert next(told)[1]["job_id"] == second
        finish(world, RED | BLUE)
        latest = {}
        for _, document in told:
            latest[document["job_id"]] = document
            if {d["status"] for d in latest.values()} == {"completed"} and len(latest) == 2:
                break
    assert latest == {job_id: status_of(client, job_id) for job_id in (first, second)}


def test_the_ids_of_a_stream_rise_strictly(world, client):
    world.pin()
    for number in range(5):
        world.register(f"/photos/{number}.jpg")
    with event_stream(client) as response:
        told = job_events(response)
        ids = [next(told)[0] for _ in range(5)]
        world.register("/photos/late.jpg")
        ids.append(next(told)[0])
    numbers = [tuple(int(part) for part in text.split("-")) for text in ids]
    assert numbers == sorted(set(numbers))


def test_who_connects_again_misses_nothing_though_the_service_was_restarted_meanwhile(world):
    world.pin()
    contents = RED | BLUE | {"/photos/broken.jpg": "a broken thing"}
    first = world.register(*RED).job_id
    with serving(world) as client, event_stream(client) as response:
        last, _ = next(job_events(response))
    second, third = world.register(*BLUE).job_id, world.register("/photos/broken.jpg").job_id
    world.embed(contents, failing={"/photos/broken.jpg": ReasonCode.TRUNCATED})
    world.publish()
    still_open = world.register("/photos/later.jpg").job_id
    with serving(world) as client, event_stream(client, last=last) as response:
        told = job_events(response)
        heard = [next(told) for _ in range(4)]
        expected = {job_id: status_of(client, job_id) for job_id in (first, second, third, still_open)}
    assert {document["job_id"]: document for _, document in heard} == expected
    assert [expected[i]["status"] for i in (first, second, third, still_open)] == [*["completed"] * 3, "queued"]
    ids = [tuple(int(part) for part in text.split("-")) for text, _ in heard]
    assert ids == sorted(set(ids))
    assert ids[0] > tuple(int(part) for part in last.split("-"))


def test_an_id_that_is_not_ours_is_as_good_as_none(world, client):
    open_job = world.register("/photos/red.jpg").job_id
    with event_stream(client, last="whatever") as response:
        assert next(job_events(response))[1]["job_id"] == open_job


def test_a_job_of_known_images_only_is_told_though_it_was_complete_at_once(world, client):
    world.index(RED)
    with event_stream(client) as response:
        told = frames(response)
        assert next(told) == {"retry": "2000"}  # from here on nothing is missed
        at_once = world.register(*RED).job_id
        document = json.loads(next(told)["data"])
    assert (document["job_id"], document["status"]) == (at_once, "completed")


@pytest.fixture
def process(world):
    env = os.environ | {
        "CLIP_PIPELINE_HOME": str(world.settings.home_path),
        "CLIP_PIPELINE_PORT": "0",
        "CLIP_PIPELINE_DAGSTER_PORT": str(world.settings.dagster_port),
    }
    child = subprocess.Popen([sys.executable, "-c", SERVE], env=env, stderr=subprocess.PIPE, text=True)
    yield child
    child.kill()
    child.communicate()


def test_a_service_that_is_told_to_stop_says_goodbye_to_listeners_and_does_not_wait_for_them(world, process):
    world.index(RED)
    job_id = world.register("/photos/other.jpg").job_id
    with httpx.Client(base_url=f"http://127.0.0.1:{port_of(process)}") as client:
        with event_stream(client) as response, job_socket(client, job_id) as socket:
            told = frames(response)
            assert [next(told).get("event") for _ in range(2)] == [None, "job"]
            socket.recv(timeout=20)
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert [frame["event"] for frame in told] == ["end"]
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=20)
            assert socket.close_code == 1012
        assert process.wait(timeout=20) == 0
    assert time.monotonic() - started < 8


def test_two_hundred_idle_listeners_cost_next_to_nothing(world, process):
    world.index(RED)
    job_id = world.register("/photos/other.jpg").job_id
    port = port_of(process)
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=30) as client:
        measured = psutil.Process(process.pid)
        streams, sockets = [], []
        try:
            for _ in range(100):
                streams.append(client.send(client.build_request("GET", "/events"), stream=True))
                sockets.append(opened := job_socket(client, job_id))
                opened.__enter__().recv(timeout=20)
            told = [job_events(stream) for stream in streams]
            assert {next(events)[1]["job_id"] for events in told} == {job_id}
            before = sum(measured.cpu_times()[:2])
            started = time.monotonic()
            while time.monotonic() - started < 4:
                assert client.get("/api/v1/index/stats").status_code == 200
                measured.cpu_percent(interval=0.5)
            spent, seconds = sum(measured.cpu_times()[:2]) - before, time.monotonic() - started
            world.register("/photos/more.jpg")
            assert len({next(events)[1]["job_id"] for events in told}) == 1
        finally:
            for opened in sockets:
                opened.__exit__(None, None, None)
            for stream in streams:
                stream.close()
    assert spent / seconds < 0.25
