"""Files and folders named on the command line become one job."""

import json
import os
import threading

import pytest

from clip_pipeline.core.paths import path_to_text
from clip_pipeline.ledger import jobs
from clip_pipeline.ledger.folder_progress import folder_progress
from clip_pipeline.ledger.lookup import known_files_below
from clip_pipeline.ledger.states import FileState
from clip_pipeline_tests.cli.conftest import Ended
from clip_pipeline_tests.cli.indexing import embed_planned
from clip_pipeline_tests.ledger import steps


def known(world, folder):
    return [file.path.removeprefix(f"{folder}/") for file in known_files_below(world.ledger, str(folder))]


def test_folders_are_registered_with_all_below_and_known_files_are_counted(command, world, pictures):
    (pictures / ".hidden.png").write_bytes(b"x")
    first = json.loads(command("index", pictures, pictures / "red.png", "--json", "--priority", "5").out)
    assert (first["status"], first["images_count"], first["new_images_count"]) == ("queued", 3, 3)
    assert known(world, pictures) == ["below/blue.png", "copy.png", "red.png"]
    assert json.loads(command("status", first["job_id"], "--json").out)["progress"]["total_images"] == 3

    world.pin()
    embed_planned(world)
    world.publish()
    again = json.loads(command("index", pictures, "--json").out)
    assert (again["status"], again["new_images_count"], again["already_indexed_count"]) == ("completed", 0, 3)


def test_a_named_file_is_taken_whatever_its_name_and_odd_names_are_shown_plainly(command, world, tmp_path):
    name = os.fsencode(tmp_path) + b"/.odd \xff\n name.png"
    with open(name, "wb") as file:
        file.write(b"no image")
    ended = command("index", os.fsdecode(name))
    assert ended.status == 0
    assert "Queued 1 new image for indexing; 0 files known and unchanged. Job idx_" in ended.out
    assert "No stack runs in this home" in ended.out
    assert [file.path for file in known_files_below(world.ledger, str(tmp_path))] == [path_to_text(name)]


def test_links_out_of_the_named_folder_are_left_out_unless_their_target_is_allowed(
    command, world, pictures, tmp_path, monkeypatch
):
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"x")
    (pictures / "link.png").symlink_to(outside)
    command("index", pictures)
    assert "link.png" not in known(world, pictures)
    monkeypatch.setenv("CLIP_PIPELINE_ROOTS", str(tmp_path))
    command("index", pictures)
    assert "link.png" in known(world, pictures)


def test_a_broken_link_that_was_named_becomes_a_missing_file_of_the_job(command, world, tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    assert command("index", tmp_path / "link.png").status == 0
    world.embed({})
    assert folder_progress(world.ledger, str(tmp_path)).states[FileState.FAILED] == 1


def test_waiting_without_a_stack_says_how_to_start_one(command, world, pictures):
    ended = command("index", pictures, "--wait")
    assert ended.status == 10
    assert "start it with `clip-pipeline up`" in ended.err
    assert folder_progress(world.ledger, str(pictures)).registered == 3


@pytest.fixture
def running(monkeypatch):
    """The home looks as if its stack ran, and jobs are looked at often."""
    monkeypatch.setattr("clip_pipeline.cli.index_command.running_stack", lambda _home: object())
    monkeypatch.setattr("clip_pipeline.cli.index_command.LOOK_EVERY_S", 0.01)


@pytest.mark.usefixtures("running")
def test_waiting_ends_with_the_job_and_lists_what_failed(command, world, pictures):
    world.pin()
    contents = {f"{pictures}/red.png": "red", f"{pictures}/copy.png": "red"}
    done = threading.Event()

    def work():
        while not done.is_set() and not folder_progress(world.ledger, str(pictures)).registered:
            done.wait(0.01)
        world.embed(contents)
        world.publish()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        ended: Ended = command("index", pictures, "--wait", "--json")
    finally:
        done.set()
        worker.join()
    document = json.loads(ended.out)
    assert (ended.status, document["status"]) == (0, "completed")
    assert [entry["path"] for entry in document["failed"]] == [f"{pictures}/below/blue.png"]


@pytest.mark.usefixtures("running")
def test_waiting_for_a_job_that_was_given_up_fails(command, world, pictures, monkeypatch):
    registered = steps.register(world.ledger, *(f"{pictures}/{n}" for n in ("red.png", "copy.png", "below/blue.png")))
    (batch,) = steps.plan(world.ledger)
    jobs.give_up_batch(world.ledger, batch.number, error="run 1: the disk is full")
    monkeypatch.setattr("clip_pipeline.cli.index_command._register", lambda *_args, **_kwargs: registered)
    ended = command("index", pictures, "--wait")
    assert ended.status == 1
    assert f"error: job {registered.job_id} failed: run 1: the disk is full" in ended.err
