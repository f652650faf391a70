"""`workers`: who is there, as a table and as JSON, and striking one off."""

import json

from clip_pipeline_tests.serving.fleet import enter, enter_all, lose, write_fleet


def test_a_home_without_workers_says_how_to_start_one(world, command):
    assert world.ledger is not None
    ended = command("workers")
    assert (ended.status, "clip-pipeline worker" in ended.out) == (0, True)


def test_every_worker_is_a_line_and_the_sum_counts_the_living(world, command):
    enter_all(world)
    ended = command("workers")
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines if "gpu0" in line] == [
        "lost", "starting", "draining", "busy", "ready", "left",
    ]  # fmt: skip
    assert "4 workers alive of 6, 1,856 images/s together" in ended.out


def test_json_is_what_the_service_answers(world, command, tmp_path, monkeypatch):
    enter(world, "gpu01")
    monkeypatch.setenv("CLIP_PIPELINE_FLEET", str(write_fleet(tmp_path / "fleet.yaml", "gpu01", "gpu09")))
    document = json.loads(command("workers", "--json").out)
    assert [(worker["host"], worker["state"]) for worker in document["workers"]] == [
        ("gpu09", "absent"), ("gpu01", "starting"),
    ]  # fmt: skip
    assert command("workers").out.splitlines()[2].split()[:2] == ["absent", "gpu09:4000"]


def test_a_faulty_fleet_file_is_said_beside(world, command, tmp_path, monkeypatch):
    enter(world, "gpu01")
    path = tmp_path / "fleet.yaml"
    path.write_text("gpu: nonsense")
    monkeypatch.setenv("CLIP_PIPELINE_FLEET", str(path))
    ended = command("workers")
    assert "gpu01:4000" in ended.out
    assert "The fleet file is faulty" in ended.err


def test_a_lost_worker_is_struck_off(world, command):
    address, _ = enter(world, "gpu01")
    assert command("workers", "--forget", address).status == 13
    lose(world, address)
    assert "struck off" in command("workers", "--forget", address).out
    assert command("workers", "--forget", address).status == 9
