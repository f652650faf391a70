"""Bodies and headers that are too long or too slow, over real connections."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from clip_pipeline.serving.body_limits import BodyLimits, BodyRefusedError
from clip_pipeline.serving.connections import timed_protocol
from clip_pipeline.serving.server import bind
from clip_pipeline_tests.serving.world import settings_of

PATIENCE_S = 0.3


async def echo_length(_scope, receive, send):
    """Answers how long the body was, in the manner of a route that turns every trouble into its own answer."""
    length, is_whole = 0, False
    status = 200
    try:
        while not is_whole:
            message = await receive()
            length += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
    except BodyRefusedError:
        status = 400
    body = str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def port(tmp_path):
    settings = settings_of(tmp_path, max_body_bytes=1000, max_upload_bytes=5000, body_timeout_s=PATIENCE_S)
    app = BodyLimits(echo_length, settings=settings)
    config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", http=timed_protocol(PATIENCE_S))
    server = uvicorn.Server(config)
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection


def head(length=None, *, kind="application/json", chunked=False):
    lines = ["POST / HTTP/1.1", "Host: localhost", f"Content-Type: {kind}"]
    lines += [f"Content-Length: {length}"] if length is not None else []
    lines += ["Transfer-Encoding: chunked"] if chunked else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def everything(connection):
    """What the server sends until it closes the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def test_a_body_that_says_it_is_too_long_is_refused_before_any_of_it_is_sent(port):
    with connected(port) as connection:
        connection.sendall(head(1001))
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    assert b"at most 1000 bytes" in answer


def test_a_body_of_unknown_length_is_refused_when_it_goes_beyond_the_limit(port):
    with connected(port) as connection:
        connection.sendall(head(chunked=True) + chunk(b"x" * 600) + chunk(b"x" * 600))
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(("kind", "length"), [("application/json", 1000), ("multipart/form-data; boundary=x", 5000)])
def test_a_body_of_just_the_limit_of_its_kind_passes(port, kind, length):
    with connected(port) as connection:
        connection.sendall(head(length, kind=kind) + b"x" * length)
        answer = b""
        # Headers and body may come one after the other.
        while not answer.endswith(str(length).encode()) and (part := connection.recv(65536)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(str(length).encode())


@pytest.mark.parametrize("sent", [b"", b"x" * 100])
def test_a_body_that_makes_no_progress_is_refused_and_the_connection_closed(port, sent):
    begun = time.monotonic()
    with connected(port) as connection:
        connection.sendall(head(900) + sent)
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    assert f"got {len(sent)}".encode() in answer
    assert PATIENCE_S * 0.9 < time.monotonic() - begun < PATIENCE_S + 3


def test_dripping_a_byte_now_and_then_is_no_progress(port):
    begun = time.monotonic()
    with connected(port) as connection:
        connection.sendall(head(900))
        connection.settimeout(PATIENCE_S / 10)
        answer = b""
        while not answer and time.monotonic() - begun < 5:
            with contextlib.suppress(OSError):
                connection.send(b"x")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_request_without_a_body_waits_for_nothing(port):
    with connected(port) as connection:
        connection.sendall(b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "])
def test_a_connection_without_a_whole_request_is_closed(port, sent):
    begun = time.monotonic()
    with connected(port) as connection:
        connection.sendall(sent)
        assert everything(connection) == b""
    assert PATIENCE_S * 0.9 < time.monotonic() - begun < PATIENCE_S + 3


def test_endless_headers_are_malformed(port):
    with connected(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"x" * 70_000 + b"\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
