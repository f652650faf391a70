"""Push where there are keys: who may connect, and that a connection does not outlive the key it was opened with."""

import contextlib
import json

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.api_keys import revoke_key
from clip_pipeline.ledger.schema import api_keys
from clip_pipeline.serving import keys as keys_module
from clip_pipeline.serving.push import key_watch
from clip_pipeline_tests.serving.pages.people import log_in, make_key, origin
from clip_pipeline_tests.serving.push.listening import PATIENCE_S, frames


@pytest.fixture(autouse=True)
def keys_are_read_every_time(monkeypatch):
    monkeypatch.setattr(keys_module.KeyRing.__init__, "__kwdefaults__", {"cache_s": 0.0})
    monkeypatch.setattr(key_watch, "KEYS_EVERY_S", 0.05)


@pytest.fixture
def job_id(world):
    return world.register("/photos/red.jpg").job_id


@pytest.fixture
def made(world):
    return make_key(world)


def by_key(_client, token):
    return {"Authorization": f"Bearer {token}"}


def by_other_header(_client, token):
    return {"X-API-Key": token}


def by_session(client, token):
    header = log_in(client, token).headers["set-cookie"]
    client.cookies.clear()
    return {"Cookie": header.partition(";")[0]} | origin(client)


@contextlib.contextmanager
def socket_of(client, job_id, headers):
    url = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    address = f"{url}/ws/jobs/{job_id}"
    with connect(address, additional_headers=headers, open_timeout=PATIENCE_S, proxy=None) as socket:
        yield socket


def stream_of(client, headers):
    return client.stream("GET", "/events", headers=headers, timeout=PATIENCE_S)


def next_event(told):
    """The name and document of the next event; frames without one are passed over."""
    frame = next(frame for frame in told if "event" in frame)
    return frame["event"], json.loads(frame["data"])


def statuses(client, job_id, headers):
    """What a stream and a socket with these headers are answered; 101 where the socket is open."""
    with stream_of(client, headers) as response:
        streamed = response.status_code
    try:
        with socket_of(client, job_id, headers):
            return streamed, 101
    except InvalidStatus as refusal:
        return streamed, refusal.response.status_code


@pytest.mark.parametrize("credential", [by_key, by_other_header, by_session])
def test_a_key_and_a_session_may_listen(client, job_id, made, credential):
    headers = credential(client, made.token)
    with stream_of(client, headers) as response:
        assert response.status_code == 200
        name, document = next_event(frames(response))
        assert (name, document["job_id"]) == ("job", job_id)
    with socket_of(client, job_id, headers) as socket:
        assert json.loads(socket.recv(timeout=PATIENCE_S))["job_id"] == job_id


def test_nobody_else_may_listen(world, client, job_id, made):
    cookie = by_session(client, made.token)
    assert statuses(client, job_id, {}) == (401, 401)
    assert statuses(client, job_id, {"X-API-Key": "clip_1_2"}) == (401, 401)
    assert statuses(client, job_id, {"Cookie": cookie["Cookie"] + "x"} | origin(client)) == (401, 401)
    revoke_key(world.ledger, made.key.key_id)
    for headers in (by_key(client, made.token), by_other_header(client, made.token), cookie):
        assert statuses(client, job_id, headers) == (401, 401)


@pytest.mark.parametrize("foreign", ["https://evil.example", "null", "http://127.0.0.1:1", None])
def test_pages_of_other_sites_cannot_open_a_socket_with_a_session(client, job_id, made, foreign):
    """A browser sends the cookie with any WebSocket, and lets any page read what comes."""
    headers = {"Cookie": by_session(client, made.token)["Cookie"]}
    if foreign is not None:
        headers["Origin"] = foreign
    # The stream is safe all the same: without CORS headers no other site's page reads it.
    assert statuses(client, job_id, headers) == (200, 403)
    # With the key itself, which no page has by accident, any origin is served.
    assert statuses(client, job_id, headers | by_key(client, made.token)) == (200, 101)


@pytest.mark.parametrize("credential", [by_key, by_session])
@pytest.mark.parametrize("ending", ["revoked", "expired"])
def test_what_is_open_ends_when_its_key_does_and_only_that(world, client, job_id, made, credential, ending):
    lasting, headers = make_key(world), credential(client, made.token)
    with (
        socket_of(client, job_id, headers) as socket,
        socket_of(client, job_id, by_key(client, lasting.token)) as other,
        stream_of(client, headers) as response,
    ):
        told = frames(response)
        assert next_event(told)[0] == "job"
        for each in (socket, other):
            each.recv(timeout=PATIENCE_S)
        if ending == "revoked":
            revoke_key(world.ledger, made.key.key_id)
        else:
            with world.ledger.write() as connection:
                this = api_keys.c.key_id == made.key.key_id
                connection.execute(api_keys.update().where(this).values(expires_at="2020-01-01T00:00:00.000Z"))
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=PATIENCE_S)
        assert socket.close_code == 1008
        assert "no longer valid" in str(socket.close_reason)
        name, document = next_event(told)
        assert (name, document["reason"]) == ("end", "key_over")
        assert list(told) == []
        # The other one hears what happens next.
        world.index({"/photos/red.jpg": "a red thing"})
        assert json.loads(other.recv(timeout=PATIENCE_S))["job_id"] == job_id


def test_what_was_opened_without_a_key_ends_with_the_first_one(world, client, job_id):
    with socket_of(client, job_id, {}) as socket:
        socket.recv(timeout=PATIENCE_S)
        make_key(world)
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=PATIENCE_S)
        assert socket.close_code == 1008


def test_a_ledger_that_cannot_be_read_ends_no_connection(world, client, job_id, made, monkeypatch):
    asked = []

    async def fail(ring):
        asked.append(ring)
        raise StoreError("no ledger")

    with socket_of(client, job_id, by_key(client, made.token)) as socket:
        socket.recv(timeout=PATIENCE_S)
        with monkeypatch.context() as patch:
            patch.setattr(keys_module.KeyRing, "known", fail)
            world.index({"/photos/red.jpg": "a red thing"})
            told = [json.loads(message) for message in socket]
        assert told[-1]["status"] == "completed"
        assert socket.close_code == 1000
        assert len(asked) > 1
