"""Push of analysis requests over real connections: one over a WebSocket, all as server-sent events."""

import asyncio
import contextlib
import time
import uuid
from datetime import datetime

import pytest

from clip_pipeline.ledger.analysis_queue import claim, give_back
from clip_pipeline.serving.push.event_stream import in_order
from clip_pipeline.serving.push.events import Event
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.serving.lane import answer_all, lane
from clip_pipeline_tests.serving.push.listening import event_stream, events_of, frames, messages, push_socket
from clip_pipeline_tests.serving.world import serving

LABELS = {"labels": ",".join(COLOUR_LABELS)}


@pytest.fixture
def world(world):
    world.pin()
    return world


def submit(client, content, **fields):
    response = client.post("/analyze-image", files={"file": ("a.png", content)}, data=LABELS | fields)
    assert response.status_code == 202
    return response.json()["request_id"]


def status_of(client, request_id):
    return client.get(f"/status/{request_id}").json()


def numbers(text):
    return tuple(int(part) for part in text.split("-"))


def test_a_socket_tells_the_state_at_once_then_each_change_then_the_result_and_closes(world, client):
    request_id = submit(client, picture("red"))
    with push_socket(client, f"analysis/{request_id}") as socket:
        told = messages(socket)
        assert next(told) == status_of(client, request_id)
        owner = str(uuid.uuid4())
        claim(world.ledger, owner=owner, most=1, lease_s=30, now=time.time())
        assert next(told)["status"] == "processing"
        give_back(world.ledger, owner)
        assert next(told)["status"] == "submitted"
        answer_all(world)
        *_, last = told
        assert socket.close_code == 1000
    assert last == client.get(f"/result/{request_id}").json()
    assert (last["status"], last["predictions"][0]["label"]) == ("completed", "something red")


def test_a_socket_on_a_failed_request_tells_why_and_closes(world, client):
    request_id = submit(client, picture("red", side=300)[:150])
    answer_all(world)
    with push_socket(client, f"analysis/{request_id}") as socket:
        assert list(messages(socket)) == [status_of(client, request_id)]
        assert socket.close_code == 1000
    assert status_of(client, request_id)["error_message"]


@pytest.mark.parametrize("name", ["nobody", "a%00b"])
def test_a_socket_on_an_unknown_request_is_told_so_and_closed_with_4404(client, name):
    with push_socket(client, f"analysis/{name}") as socket:
        (problem,) = messages(socket)
        assert problem["status"] == 404
        assert socket.close_code == 4404


def test_events_tell_of_every_request_while_somebody_listens(world, client):
    with event_stream(client) as response:
        told = events_of(response, "analysis")
        ids = {submit(client, picture(colour)) for colour in ("red", "green", "blue")}
        latest = {}
        answer_all(world)
        for _, document in told:
            latest[document["request_id"]] = document
            if len(latest) == 3 and {one["status"] for one in latest.values()} == {"completed"}:
                break
    assert latest == {request_id: status_of(client, request_id) for request_id in ids}


def test_who_connects_again_is_told_of_jobs_and_requests_that_changed_meanwhile_in_order(world):
    with serving(world) as client:
        early = submit(client, picture("red"))
        with event_stream(client) as response:
            told = frames(response)
            assert next(told) == {"retry": "2000"}
            answer_all(world)
            heard = next(frame for frame in told if frame.get("event") == "analysis")
    with serving(world) as client:
        ids = [submit(client, picture(colour)) for colour in ("green", "blue")]
        answer_all(world)
    job_id = world.index({"/photos/red.jpg": "a red thing"})
    with serving(world) as client:
        waiting = submit(client, picture("white"))
        with event_stream(client, last=heard["id"]) as response:
            told, seen = (frame for frame in frames(response) if "event" in frame), []
            wanted = {*ids, waiting, job_id}
            while not wanted <= {key for _, key in seen}:
                frame = next(told)
                seen.append((frame["id"], next(name for name in (*wanted, early) if name in frame["data"])))
    moments = [numbers(text) for text, _ in seen]
    assert moments == sorted(set(moments))
    assert moments[0] > numbers(heard["id"])


def test_a_hundred_sockets_hear_of_their_own_result_only(world, client):
    with contextlib.ExitStack() as stack:
        sockets = []
        for number in range(100):
            request_id = submit(client, picture("red"), labels=f"label {number}")
            sockets.append((request_id, number, stack.enter_context(push_socket(client, f"analysis/{request_id}"))))
        with lane(world):
            for request_id, number, opened in sockets:
                told = list(messages(opened))
                assert {one["request_id"] for one in told} == {request_id}
                assert told[-1]["predictions"] == [{"label": f"label {number}", "confidence": 1.0}]


def test_a_result_is_pushed_within_a_fraction_of_a_second(world, client):
    """What the watch adds to the wait; the best of five, since the machine may do other things meanwhile."""
    delays = []
    with lane(world):
        for number in range(5):
            request_id = submit(client, picture("red"), labels=f"label {number}")
            with push_socket(client, f"analysis/{request_id}") as socket:
                *_, last = messages(socket)
                arrived = time.time()
            assert last["status"] == "completed"
            delays.append(arrived - seconds_of(last["completed_at"]))
    assert min(delays) < 0.3


def test_streams_are_merged_in_the_order_of_their_moments():
    async def stream(*moments):
        for moment in moments:
            yield Event("t", str(moment), moment, "{}", is_final=False)

    async def scene():
        return [event.moment_ms async for event in in_order(stream(1, 4, 4, 9), stream(), stream(2, 3, 10))]

    assert asyncio.run(scene()) == [1, 2, 3, 4, 4, 9, 10]


def seconds_of(text):
    """A time of a document in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()
