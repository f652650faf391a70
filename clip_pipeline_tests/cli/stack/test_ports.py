"""Ports that are free, taken, and kept."""

import socket

import pytest

from clip_pipeline.cli.stack.ports import chosen_port, free_port, is_answering, is_free, kept_or_free
from clip_pipeline.core.errors import StackError


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def choose(port):
    return chosen_port(port, "127.0.0.1", what="HTTP service", option="--port", variable="CLIP_PIPELINE_PORT")


def test_a_taken_port_is_refused_naming_the_option_and_the_variable(taken):
    with pytest.raises(StackError, match=rf"port {taken} .* --port or CLIP_PIPELINE_PORT"):
        choose(taken)


def test_port_zero_becomes_a_free_one_and_a_free_one_stays():
    port = choose(0)
    assert port > 0
    assert choose(port) == port


def test_a_port_whose_connections_linger_is_free():
    """The stack before left connections in TIME_WAIT, and the next start said that its port was taken."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()
    assert is_free(port)


def test_the_port_of_the_last_time_is_kept_unless_it_is_taken_or_given_away(taken):
    before = free_port()
    assert kept_or_free(before, taken=set()) == before
    assert kept_or_free(before, taken={before}) != before
    assert kept_or_free(taken, taken=set()) != taken
    assert kept_or_free(None, taken=set()) > 0


def test_a_listener_is_answering_and_a_free_port_is_not(taken):
    assert is_answering(taken)
    assert not is_answering(free_port())
