"""Search through a running service, and in-process where there is none."""

import json

import pytest

from clip_pipeline.cli.search_command import bar
from clip_pipeline.cli.service_client import ServiceClient
from clip_pipeline.cli.stack.held_file import announced
from clip_pipeline.cli.stack.state import service_file
from clip_pipeline.core.errors import NotFoundError, QueryError, StackError
from clip_pipeline_tests.serving.world import free_port, serving

CONTENTS = {"/photos/red.jpg": "a red thing", "/photos/again.jpg": "a red thing", "/photos/b\n.jpg": "a blue thing"}


@pytest.fixture
def service(world):
    """A real service, announced in its home."""
    world.index(CONTENTS)
    with serving(world) as client:
        url = str(client.base_url).rstrip("/")
        with announced(service_file(world.settings.home_path), {"url": url}):
            yield url


@pytest.mark.usefixtures("service")
def test_a_text_is_asked_of_the_service_and_shown_as_a_table(command):
    ended = command("search", "something red", "-k", "2")
    lines = [line.split() for line in ended.out.splitlines()]
    assert ended.status == 0
    assert lines[1][:2] == ["1", "1.000"]
    assert lines[1][-3:] == ["/photos/again.jpg", "(+1", "duplicate)"]
    assert lines[2][-1] == "/photos/b\\x0a.jpg"


@pytest.mark.usefixtures("service")
def test_json_is_the_document_of_the_service(command):
    document = json.loads(command("search", "something blue", "-k", "1", "--json").out)
    assert (document["query"], document["index_release"]) == ({"text": "something blue", "k": 1}, "0000001")
    assert document["results"][0]["path"] == "/photos/b\n.jpg"


@pytest.mark.usefixtures("service")
def test_an_example_is_uploaded_whatever_its_name(command, tmp_path, pictures):
    odd = (tmp_path / 'odd "name"\n.png').with_suffix(".png")
    odd.write_bytes((pictures / "red.png").read_bytes())
    document = json.loads(command("search", "--image", odd, "--json").out)
    assert document["results"][0]["path"] == "/photos/again.jpg"
    refused = command("search", "--image", __file__)
    assert refused.status == 11
    assert "error: the uploaded image cannot be used: not-an-image" in refused.err


def test_errors_of_the_service_are_those_of_the_command_line(service):
    with ServiceClient(service) as client:
        with pytest.raises(NotFoundError, match=r"the index holds no image at /photos/none\.jpg"):
            client.search_indexed("/photos/none.jpg", k=3)
        with pytest.raises(QueryError, match="k"):
            client.search_text("red", k=0)
        assert client.search_indexed("/photos/red.jpg", k=1)["results"][0]["path"] == "/photos/again.jpg"
        client.wait_for_release("0000001", timeout_s=5)
        with pytest.raises(StackError, match="does not serve release 0000002"):
            client.wait_for_release("0000002", timeout_s=0)


def test_a_service_that_is_gone_is_an_error_of_its_own():
    with ServiceClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(StackError, match="does not answer"):
        client.search_text("red", k=1)


def test_without_a_service_the_same_document_is_made_here(command, world, monkeypatch):
    world.index(CONTENTS)
    monkeypatch.setattr("clip_pipeline.cli.search_here.encoder_loader", lambda _cache, **_: world.load)
    ended = command("search", "something red", "-k", "1", "--json")
    assert "No search API runs in this home" in ended.err
    (hit,) = json.loads(ended.out)["results"]
    assert (hit["path"], hit["duplicates"]) == ("/photos/again.jpg", ["/photos/red.jpg"])


def test_an_empty_index_says_so(command, world, monkeypatch):
    world.pin()
    monkeypatch.setattr("clip_pipeline.cli.search_here.encoder_loader", lambda _cache, **_: world.load)
    assert command("search", "something red").out == "The index is empty still.\n"


@pytest.mark.parametrize(
    ("share", "shown"), [(1.0, "█" * 20), (0.5, "█" * 10), (0.026, "▌"), (0.0, ""), (7.0, "█" * 20)]
)
def test_bars_have_the_length_of_their_share(share, shown):
    assert bar(share) == shown
