"""What commands that only look print, for people and for scripts."""

import json

from clip_pipeline.serving.documents import stats_document
from clip_pipeline_tests.ledger.steps import UNREADABLE
from clip_pipeline_tests.serving.world import StandInDagster

CONTENTS = {"/photos/red.jpg": "a red thing", "/photos/bad\x07name.jpg": UNREADABLE}


def test_stats_are_the_document_of_the_service(command, world):
    world.index({"/photos/red.jpg": "a red thing"})
    assert json.loads(command("stats", "--json").out) == stats_document(world.ledger, world.store)
    shown = command("stats").out
    assert "hash-64" in shown
    assert "total images" in shown


def test_jobs_are_listed_and_one_is_shown_with_what_failed(command, world):
    job_id = world.register(*CONTENTS).job_id
    world.pin()
    world.embed({path: text for path, text in CONTENTS.items() if text != UNREADABLE})
    world.publish()
    listed = command("status")
    assert "1 indexed image, hash-64; the stack does not run." in listed.out
    assert f"{job_id}  completed  2" in listed.out
    shown = command("status", job_id)
    assert "2 of 2 images" in shown.out
    assert "/photos/bad\\x07name.jpg" in shown.out
    assert json.loads(command("status", job_id, "--json").out)["progress"]["failed_images"] == 1
    assert json.loads(command("status", "--json").out)["recent_jobs"][0]["job_id"] == job_id


def test_a_deployment_that_up_did_not_start_is_told_by_its_daemons(command, world, monkeypatch):
    """It was said not to run: only `up` leaves a file that says otherwise."""
    assert world.ledger
    dagster = StandInDagster()
    monkeypatch.setenv("CLIP_PIPELINE_DAGSTER_URL", f"http://127.0.0.1:{dagster.port}")
    try:
        assert f"the stack runs (Dagster UI http://127.0.0.1:{dagster.port})." in " ".join(
            command("status").out.split()
        )
        dagster.daemons["SENSOR"] = 3600.0
        said = " ".join(command("status").out.split())
    finally:
        dagster.close()
    assert "the stack does not work: no sign of life for 180 s from: SENSOR" in said


def test_failed_files_are_listed_with_their_reasons_and_can_be_chosen_by_one(command, world):
    world.register(*CONTENTS)
    world.pin()
    world.embed({"/photos/bad\x07name.jpg": UNREADABLE})
    every = json.loads(command("failed", "--json").out)
    assert every["by_reason"] == {"missing": 1, "truncated": 1}
    assert {row["path"]: row["reason"].split(":")[0] for row in every["failed"]} == {
        "/photos/red.jpg": "missing",
        "/photos/bad\x07name.jpg": "truncated",
    }
    one = command("failed", "--reason", "truncated")
    assert "/photos/red.jpg" not in one.out
    assert "1 file: 1 truncated" in one.out
    assert command("failed", "--reason", "empty").out == "No file failed with the reason empty.\n"


def test_a_home_without_any_job_says_so(command, world):
    assert world.ledger
    assert command("status").out.endswith("No job yet.\n")
    assert command("failed").out == "No file failed.\n"
