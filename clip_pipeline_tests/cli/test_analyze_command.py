"""`analyze`: files go to a running service, labels come back; what fails is named."""

import json

import pytest

from clip_pipeline.cli.stack.held_file import announced
from clip_pipeline.cli.stack.state import service_file
from clip_pipeline.ledger.analysis_lookup import recent_analyses
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.serving.lane import lane
from clip_pipeline_tests.serving.world import serving

LABELS = ",".join(COLOUR_LABELS)


@pytest.fixture
def service(world):
    """A real service, announced in its home; the lane answers only where a test opens it."""
    world.pin()
    with serving(world) as client:
        url = str(client.base_url).rstrip("/")
        with announced(service_file(world.settings.home_path), {"url": url}):
            yield client


@pytest.fixture
def files(tmp_path):
    """Files of one colour each, by its name."""

    def write(*names):
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.write_bytes(picture(path.name.partition(".")[0].partition("-")[0]))
        return paths

    return write


@pytest.mark.usefixtures("service")
def test_each_file_is_shown_with_its_best_labels_as_bars(command, world, files):
    red, blue = files("red.png", "blue-\n.png")
    with lane(world):
        ended = command("analyze", red, blue, "--labels", LABELS, "--top-k", "2")
    assert ended.status == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0] == [str(red)]
    assert lines[2][1] == "%"
    assert lines[2][2][0] == "█"
    assert lines[2][-2:] == ["something", "red"]
    assert lines[4][0].endswith("blue-\\x0a.png")
    assert lines[6][-2:] == ["something", "blue"]
    assert len(lines) == 8


@pytest.mark.usefixtures("service")
def test_json_is_what_the_service_answers_for_each_file(command, world, files):
    with lane(world):
        ended = command("analyze", *files("red.png", "green.png"), "--labels", LABELS, "--json")
    documents = json.loads(ended.out)
    assert [one["file"].rpartition("/")[2] for one in documents] == ["red.png", "green.png"]
    assert [one["predictions"][0]["label"] for one in documents] == ["something red", "something green"]
    assert all(sum(p["confidence"] for p in one["predictions"]) == pytest.approx(1, abs=1e-3) for one in documents)


@pytest.mark.usefixtures("service")
def test_more_files_than_are_under_way_at_a_time_all_get_their_result(command, world, files, monkeypatch):
    monkeypatch.setattr("clip_pipeline.cli.analyze_command.IN_FLIGHT", 3)
    names = [f"{colour}-{n}.png" for n in range(4) for colour in ("red", "blue")]
    with lane(world):
        documents = json.loads(command("analyze", *files(*names), "--labels", LABELS, "--json").out)
    assert [one["predictions"][0]["label"] for one in documents] == [f"something {n.partition('-')[0]}" for n in names]


@pytest.mark.usefixtures("service")
def test_one_bad_file_fails_the_command_names_itself_and_leaves_the_others_their_results(
    command, world, files, tmp_path
):
    (red,) = files("red.png")
    half, text, missing = tmp_path / "half.png", tmp_path / "text.txt", tmp_path / "none.png"
    half.write_bytes(picture("green", side=300)[:120])
    text.write_text("no image")
    with lane(world):
        ended = command("analyze", half, text, red, missing, "--labels", LABELS)
    assert ended.status == 1
    assert "3 of 4 images failed" in ended.err
    for path in (half, text, missing):
        assert str(path) in ended.err
        assert str(path) not in ended.out
    assert "not-an-image" in ended.err
    assert "something red" in ended.out


@pytest.mark.usefixtures("service")
def test_without_waiting_the_request_ids_are_printed(command, world, files):
    (red,) = files("red.png")
    ended = command("analyze", red, "--no-wait")
    (request,) = recent_analyses(world.ledger)
    assert (ended.status, ended.out.split()) == (0, [request.request_id, str(red)])
    assert request.label_set == "everyday"


@pytest.mark.usefixtures("service")
def test_a_label_set_may_be_named(command, world, files, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(COLOUR_LABELS))
    command("labels", "create", "colours", tmp_path / "labels.txt", "--template", "{}")
    with lane(world):
        ended = command("analyze", *files("blue.png"), "--label-set", "colours", "--json")
    (document,) = json.loads(ended.out)
    assert document["label_set"] == {"name": "colours", "version": 1}
    assert document["predictions"][0]["label"] == "something blue"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--labels", "a", "--label-set", "b"], 11, "not both"),
        (["--top-k", "0"], 2, "--top-k"),
        ([], 10, "clip-pipeline up"),
    ],
)
@pytest.mark.usefixtures("world")
def test_what_cannot_be_asked_is_one_line(command, files, arguments, status, message):
    ended = command("analyze", *files("red.png"), *arguments)
    assert (ended.status, ended.out) == (status, "")
    assert message in ended.err
