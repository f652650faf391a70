"""`clip-pipeline migrate`: what it copies, what it says, and when it refuses."""

import json

import pytest

from clip_pipeline.cli.stack.held_file import hold
from clip_pipeline.cli.stack.state import service_file, stack_file
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline_tests.ledger.steps import index_all


@pytest.fixture
def old(home, monkeypatch):
    """A ledger with something in it, in SQLite below the home; its URL."""
    monkeypatch.delenv("CLIP_PIPELINE_LEDGER_URL", raising=False)
    url = f"sqlite:///{home}/ledger.sqlite3"
    ledger = open_ledger(url)
    index_all(ledger, {"/a": "1", "/b": "1", "/c": "2"})
    ledger.close()
    return url


@pytest.fixture
def new(postgres):
    url = postgres.new_empty_database()
    yield url
    postgres.drop_database(url)


def files_in(url):
    ledger = open_ledger(url)
    try:
        return balance(ledger).files
    finally:
        ledger.close()


def test_the_ledger_of_the_home_is_copied_to_the_one_that_the_settings_name(command, old, new, monkeypatch):
    monkeypatch.setenv("CLIP_PIPELINE_LEDGER_URL", new)
    done = command("migrate")
    assert done.status == 0, done.err
    assert "equal" in done.out
    assert "set CLIP_PIPELINE_LEDGER_URL" in done.out
    password = new.partition(":")[2].partition("@")[0].rpartition(":")[2]
    assert password not in done.out + done.err
    assert files_in(new) == files_in(old)
    assert files_in(new)["indexed"] == 2


@pytest.mark.usefixtures("old")
def test_json_says_how_many_rows_each_table_has(command, new):
    document = json.loads(command("migrate", "--to", new, "--json").out)
    tables = {table["name"]: table["rows"] for table in document["tables"]}
    assert (tables["files"], tables["images"], tables["jobs"]) == (3, 2, 1)
    assert document["to"].startswith("postgresql://clip:***@")
    assert all(len(table["digest"]) == 64 for table in document["tables"])


def test_there_is_a_way_back(command, old, new, tmp_path):
    assert command("migrate", "--to", new).status == 0
    back = f"sqlite:///{tmp_path}/back.sqlite3"
    assert command("migrate", "--from", new, "--to", back).status == 0
    assert files_in(back) == files_in(old)


@pytest.mark.parametrize(("file", "what"), [(stack_file, "a stack runs"), (service_file, "a service runs")])
@pytest.mark.usefixtures("old")
def test_it_is_refused_while_something_runs_on_the_home(command, home, new, file, what):
    held = hold(file(home))
    assert held is not None
    held.write({"pid": 4242, "url": "http://127.0.0.1:8000"})
    refused = command("migrate", "--to", new)
    held.release()
    assert refused.status == 10
    assert what in refused.err
    assert "stop it with Ctrl-C" in refused.err
    assert command("migrate", "--to", new).status == 0


@pytest.mark.usefixtures("old")
def test_it_is_refused_while_a_process_of_another_machine_uses_the_ledger(command, new):
    worker = open_ledger(new)
    with worker.read():
        refused = command("migrate", "--to", new)
    worker.close()
    assert refused.status == 10
    assert "1 session of other processes" in refused.err


@pytest.mark.usefixtures("old")
def test_a_ledger_that_holds_something_is_left_alone(command, new):
    assert command("migrate", "--to", new).status == 0
    again = command("migrate", "--to", new)
    assert again.status == 13
    assert "holds a ledger already" in again.err


def test_what_is_missing_or_the_same_is_said(command, home, old, new):
    assert "--to URL" in command("migrate").err
    assert "to itself" in command("migrate", "--to", old).err
    missing = command("migrate", "--from", f"sqlite:///{home}/nowhere.sqlite3", "--to", new)
    assert (missing.status, "no ledger is at" in missing.err) == (9, True)
    assert not (home / "nowhere.sqlite3").exists()
