"""The grammar: help at once, errors in one line with their own status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clip_pipeline import __version__
from clip_pipeline.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = [
    "up", "demo", "api", "kafka", "init", "worker", "index", "search", "analyze", "workers", "status", "stats",
    "failed", "verify", "export", "maintain", "backup", "restore", "migrate",
]  # fmt: skip
HEAVY = {"torch", "transformers", "faiss", "dagster", "sqlalchemy", "fastapi", "pandas", "numpy", "httpx", "pydantic"}


def test_the_grammar_imports_nothing_that_takes_time():
    code = "import sys, clip_pipeline.cli.main; print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert HEAVY & set(child.stdout.split()) == set()


def test_the_commands_are_those_that_scripts_use():
    assert [getattr(info.callback, "__name__", None) for info in app.registered_commands] == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_how_to_use_it(command, name):
    ended = command(name, "--help")
    assert ended.status == 0
    assert f"clip-pipeline {name}" in ended.out.partition("For example:")[2]


def test_the_version_is_printed(command):
    assert command("--version").out == f"clip-pipeline {__version__}\n"


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["stats", "--nonsense"], 2, "No such option"),
        (["status", "idx_20250101_000000_abcdef"], 9, "error: no job 'idx_20250101_000000_abcdef'"),
        (["search"], 11, "error: give either a text"),
        (["search", "x", "--image", "y.jpg"], 11, "error: give either a text"),
        (["search", "--image", "/no/such.jpg"], 11, "error: the query image /no/such.jpg does not exist"),
        (["index", "/no/such/file.jpg"], 9, "error: /no/such/file.jpg does not exist"),
        (["up", "--watch", "/no/such/folder"], 3, "error: the folder /no/such/folder does not exist"),
        (["demo", "--images", "/dev/null", "--once"], 3, "error: /dev/null is not a folder"),
        (["failed", "--reason", "nonsense"], 2, "nonsense"),
        (["export", "/dev/null"], 3, "error: /dev/null is not a folder"),
    ],
)
def test_errors_are_one_line_with_their_own_status(command, arguments, status, message):
    ended = command(*arguments)
    assert (ended.status, ended.out) == (status, "")
    assert message in ended.err
    assert "Traceback" not in ended.err
    if status != 2:
        assert ended.err.count("\n") == 1


def test_a_setting_of_the_wrong_kind_is_named(command, monkeypatch):
    monkeypatch.setenv("CLIP_PIPELINE_PORT", "eighty")
    ended = command("stats")
    assert ended.status == 3
    assert ended.err.startswith("error: CLIP_PIPELINE_PORT='eighty': ")


@pytest.mark.parametrize("arguments", [["stats"], ["status"], ["failed"], ["verify"], ["search", "x"]])
def test_looking_into_an_empty_home_says_how_to_begin_and_makes_nothing(command, monkeypatch, tmp_path, arguments):
    monkeypatch.setenv("CLIP_PIPELINE_HOME", str(tmp_path / "absent"))
    ended = command(*arguments)
    assert ended.status == 9
    assert "clip-pipeline up --watch FOLDER" in ended.err
    assert not (tmp_path / "absent").exists()


def test_a_home_that_cannot_be_made_is_an_error_of_one_line(command, monkeypatch, tmp_path, pictures):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIP_PIPELINE_HOME", str(tmp_path / "file" / "home"))
    ended = command("index", pictures)
    assert ended.status == 5
    assert "set CLIP_PIPELINE_HOME" in ended.err


@pytest.mark.slow
def test_init_pins_the_built_in_encoder_once_and_refuses_another(command, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_PIPELINE_HOME", str(tmp_path / "home"))
    first = json.loads(command("init", "--encoder", "builtin", "--json").out)
    again = json.loads(command("init", "--json").out)
    assert first["fingerprint"] == again["fingerprint"]
    assert (first["embedding_dim"], first["encoder"]) == (384, "builtin-conse-efficientnet-lite0-minilm")
    refused = command("init", "--encoder", "openai/clip-vit-base-patch32")
    assert refused.status == 8
    assert "another CLIP_PIPELINE_HOME" in refused.err
