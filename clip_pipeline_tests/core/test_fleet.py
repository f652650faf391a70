"""The fleet file: what it may say, and that it is read again when it changes."""

import os
from pathlib import Path

import pytest

from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.core.fleet import FleetFile, Worker, parse_fleet, read_fleet

ONE, TWO = Worker("gpu01", 4000), Worker("gpu02", 4001, 2)
TEXT = "gpu:\n  - {host: gpu01, port: 4000}\n  - {host: gpu02, port: 4001, slots: 2}\n"


def test_workers_keep_their_order_and_have_one_slot_unless_more_are_given():
    assert parse_fleet(TEXT) == {"gpu": (ONE, TWO)}
    assert TWO.address == "gpu02:4001"


@pytest.mark.parametrize(("text", "fleet"), [("", {}), ("# nobody yet\n", {}), ("gpu: []\n", {"gpu": ()})])
def test_no_location_and_a_location_without_workers_are_two_things(text: str, fleet: object):
    assert parse_fleet(text) == fleet


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("gpu: [", "not YAML"),
        ("[gpu]", "expected code locations"),
        ("gpu: gpu01:4000", "list of workers"),
        ("4: []", "name of a code location"),
        ("gpu: [gpu01]", "gpu, worker 1: expected"),
        ("gpu: [{host: a, port: 1}, {host: b, port: 2, slot: 1}]", "gpu, worker 2: unknown slot"),
        ("gpu: [{port: 1}]", "host must be"),
        ("gpu: [{host: '', port: 1}]", "host must be"),
        ("gpu: [{host: 'a:1', port: 1}]", "without a port"),
        ("gpu: [{host: a}]", "port must be"),
        ("gpu: [{host: a, port: 0}]", "port must be"),
        ("gpu: [{host: a, port: 65536}]", "port must be"),
        ("gpu: [{host: a, port: yes}]", "port must be"),
        ("gpu: [{host: a, port: '4000'}]", "port must be"),
        ("gpu: [{host: a, port: 1, slots: 0}]", "slots must be"),
        ("gpu: [{host: a, port: 1, slots: 1.5}]", "slots must be"),
        ("gpu: [{host: a, port: 1}, {host: a, port: 1}]", "a:1 is named twice, for gpu and for gpu"),
        ("gpu: [{host: a, port: 1}]\nother: [{host: a, port: 1}]", "a:1 is named twice, for gpu and for other"),
    ],
)
def test_what_is_not_a_fleet_is_refused_with_the_place(text: str, complaint: str):
    with pytest.raises(ConfigurationError) as raised:
        parse_fleet(text, source="fleet.yaml")
    assert str(raised.value).startswith("fleet.yaml")
    assert complaint in str(raised.value)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"cannot read the fleet file .*fleet\.yaml"):
        read_fleet(tmp_path / "fleet.yaml")


def rewrite(path: Path, text: str) -> None:
    """As an editor saves: a new file in place of the old one."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    os.replace(beside, path)


def test_an_edit_is_seen_at_the_next_look(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_text("gpu: [{host: a, port: 1}]")
    file = FleetFile(path)
    assert file.look().fleet == {"gpu": (Worker("a", 1),)}
    path.write_text("gpu: [{host: a, port: 1}, {host: b, port: 2}]")
    assert file.look().fleet == {"gpu": (Worker("a", 1), Worker("b", 2))}


def test_an_edit_of_equal_length_and_time_is_seen_where_the_file_was_replaced(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    path.write_text("gpu: [{host: a, port: 1}]")
    at = path.stat().st_mtime_ns
    file = FleetFile(path)
    file.look()
    rewrite(path, "gpu: [{host: b, port: 1}]")
    os.utime(path, ns=(at, at))
    assert file.look().fleet == {"gpu": (Worker("b", 1),)}


@pytest.mark.parametrize("bad", ["gpu: [{host: a}]", "gpu: [", "gpu: [{host: a, port: 1, slots: 0}]"])
def test_a_bad_edit_is_reported_while_the_last_good_content_holds(tmp_path: Path, bad: str):
    path = tmp_path / "fleet.yaml"
    path.write_text("gpu: [{host: a, port: 1}]")
    file = FleetFile(path)
    good = file.look().fleet
    rewrite(path, bad)
    state = file.look()
    assert state.fleet == good
    assert str(path) in (state.fault or "")
    rewrite(path, "gpu: [{host: b, port: 2}]")
    assert file.look().fleet == {"gpu": (Worker("b", 2),)}
    assert file.look().fault is None


def test_a_file_that_vanishes_is_a_bad_edit_and_one_that_never_was_gives_no_fleet(tmp_path: Path):
    path = tmp_path / "fleet.yaml"
    file = FleetFile(path)
    assert file.look().fleet is None
    assert "cannot read" in (file.look().fault or "")
    path.write_text("gpu: [{host: a, port: 1}]")
    assert file.look().fleet == {"gpu": (Worker("a", 1),)}
    path.unlink()
    assert file.look().fleet == {"gpu": (Worker("a", 1),)}
    assert "cannot read" in (file.look().fault or "")
