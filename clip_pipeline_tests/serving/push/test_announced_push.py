"""Push on PostgreSQL: clients hear because the database announces, long before anybody would look."""

import time
import uuid
from dataclasses import replace

import pytest
from websockets.exceptions import ConnectionClosed

from clip_pipeline.ledger.analysis_queue import claim
from clip_pipeline.ledger.api_keys import revoke_key
from clip_pipeline.serving import keys as keys_module
from clip_pipeline.serving.push import key_watch
from clip_pipeline.serving.push.analysis_look import AnalysisLook
from clip_pipeline.serving.push.job_look import JobLook
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.serving.pages.people import make_key
from clip_pipeline_tests.serving.push.listening import event_stream, job_events, messages, push_socket
from clip_pipeline_tests.serving.push.test_push_keys import socket_of
from clip_pipeline_tests.serving.world import World

NEVER_S = 3600.0


@pytest.fixture
def world(postgres, tmp_path, dagster, monkeypatch):
    """A home whose service looks for nothing by itself."""
    for look in (JobLook, AnalysisLook):
        monkeypatch.setattr(look, "pace", replace(look.pace, every_s=NEVER_S, announced_s=NEVER_S))
    monkeypatch.setattr(keys_module.KeyRing.__init__, "__kwdefaults__", {"cache_s": NEVER_S})
    monkeypatch.setattr(key_watch, "KEYS_EVERY_S", NEVER_S)
    opened = World(tmp_path / "home", dagster_port=dagster.port, ledger_url=postgres.new_database())
    yield opened
    opened.close()


def test_a_job_is_followed_by_announcements_alone(world, client):
    world.pin()
    contents = {"/photos/red.jpg": "a red thing"}
    with event_stream(client) as response:
        told = job_events(response)
        job_id = world.register(*contents).job_id
        assert next(told)[1]["job_id"] == job_id
        world.embed(contents)
        world.publish()
        last = next(document for _, document in told if document["status"] == "completed")
    assert last["progress"]["processed_images"] == 1


def test_an_analysis_request_is_followed_by_announcements_alone(world, client):
    world.pin()
    answer = client.post(
        "/analyze-image", files={"file": ("a.png", picture("red"))}, data={"labels": ",".join(COLOUR_LABELS)}
    )
    with push_socket(client, f"analysis/{answer.json()['request_id']}") as socket:
        told = messages(socket)
        assert next(told)["status"] == "submitted"
        claim(world.ledger, owner=str(uuid.uuid4()), most=1, lease_s=30, now=time.time())
        assert next(told)["status"] == "processing"


def test_a_revoked_key_ends_its_connections_by_an_announcement_alone(world, client):
    key = make_key(world)
    job_id = world.register("/photos/red.jpg").job_id
    deadline = time.monotonic() + 20  # the first key is announced too: until then the service is open
    while client.get("/api/v1/index/stats").status_code != 401:
        assert time.monotonic() < deadline
    with socket_of(client, job_id, {"X-API-Key": key.token}) as socket:
        socket.recv(timeout=20)
        revoke_key(world.ledger, key.key.key_id)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)
        assert socket.close_code == 1008
