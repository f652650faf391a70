"""`maintain` by hand: the same work as the schedules do, told to people and to scripts; a dry run changes nothing."""

import json

import pytest

from clip_pipeline.ledger.planning import batch_keys
from clip_pipeline.settings import Settings
from clip_pipeline_tests.small_home import SmallHome


@pytest.fixture
def worn(home, monkeypatch):
    """A home with nine small batches, merged long ago, and an orphan."""
    monkeypatch.setattr("clip_pipeline.cli.verify_command.PAUSE_S", 0.0)
    made = SmallHome(home, ledger_url=Settings().ledger_location)
    made.add_many(9)
    made.merge()
    made.age()
    (made.store.root / ".tmp-orphan-1").write_bytes(b"12345")
    made.age_files()
    yield made
    made.close()


def test_a_dry_run_says_everything_and_does_nothing(command, worn):
    told = command("maintain", "--dry-run")
    assert told.status == 0
    assert "9 batches would become 1" in told.out
    assert "would be removed: 1 temporaries" in told.out
    document = json.loads(command("maintain", "--dry-run", "--json").out)
    assert document["dry_run"] is True
    assert document["compaction"]["would_compact"][0]["images"] == 18
    assert document["orphans"]["bytes"] == 5
    assert document["segments"] == {"worn_segments": 0, "segments": 1}
    assert document["vacuum"]["vacuumed"] is False
    assert len(batch_keys(worn.ledger)) == 9
    assert (worn.store.root / ".tmp-orphan-1").exists()


def test_all_tasks_are_done_and_the_home_stays_sound(command, worn):
    answers = worn.answers()
    document = json.loads(command("maintain", "--json").out)
    (made,) = document["compaction"]["compacted"]
    assert [str(key) for key in batch_keys(worn.ledger)] == [made["batch"]]
    assert len(made["compacted_from"]) == 9
    assert document["orphans"]["kinds"] == {"temporaries": 1}
    assert worn.faults() == []
    worn.merge()
    assert worn.answers() == answers
    assert "0 batches became 0" in command("maintain", "compaction").out


def test_one_task_alone_is_done_alone(command, worn):
    document = json.loads(command("maintain", "vacuum", "--json").out)
    assert set(document) == {"dry_run", "vacuum"}
    assert len(batch_keys(worn.ledger)) == 9


@pytest.mark.usefixtures("worn")
def test_what_counts_as_old_can_be_said(command):
    document = json.loads(command("maintain", "compaction", "--older-than", "100000", "--json").out)
    assert document["compaction"]["compacted"] == []
    assert len(
        json.loads(command("maintain", "compaction", "--older-than", "1", "--json").out)["compaction"]["compacted"]
    )


@pytest.mark.usefixtures("worn")
def test_an_unknown_task_is_refused(command):
    assert command("maintain", "everything").status == 2


def test_where_nothing_was_indexed_there_is_nothing_to_maintain(command):
    assert command("maintain").status == 9
