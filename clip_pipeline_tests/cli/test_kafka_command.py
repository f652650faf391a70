"""`clip-pipeline kafka` and what it needs before it starts."""

import sys

import pytest

from clip_pipeline.cli.stack.plan import StackPlan
from clip_pipeline_tests.serving.world import settings_of


def test_without_a_broker_the_command_says_which_setting_names_one(command, monkeypatch):
    monkeypatch.delenv("CLIP_PIPELINE_KAFKA_BOOTSTRAP", raising=False)
    ended = command("kafka")
    assert (ended.status, ended.out, ended.err.count("\n")) == (3, "", 1)
    assert "CLIP_PIPELINE_KAFKA_BOOTSTRAP" in ended.err


def test_without_the_client_the_command_says_what_to_install(command, monkeypatch):
    monkeypatch.setenv("CLIP_PIPELINE_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setattr("clip_pipeline.cli.kafka_command.find_spec", lambda _name: None)
    ended = command("kafka")
    assert (ended.status, ended.out, ended.err.count("\n")) == (3, "", 1)
    assert "clip-pipeline[kafka]" in ended.err


def test_a_file_of_options_that_is_not_there_is_an_error_of_one_line(command, monkeypatch):
    pytest.importorskip("confluent_kafka", reason="needs the extra `kafka`")
    monkeypatch.setenv("CLIP_PIPELINE_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("CLIP_PIPELINE_KAFKA_CONFIG", "/no/such.properties")
    ended = command("kafka")
    assert (ended.status, ended.out, ended.err.count("\n")) == (3, "", 1)
    assert "CLIP_PIPELINE_KAFKA_CONFIG: /no/such.properties cannot be read" in ended.err


def test_the_stack_has_a_part_for_kafka_only_where_a_broker_is_set(tmp_path):
    ports = {"control": 4001, "gpu": 4002}
    assert StackPlan(settings_of(tmp_path), ports).kafka() is None
    part = StackPlan(settings_of(tmp_path, kafka_bootstrap="127.0.0.1:9092"), ports).kafka()
    assert part is not None
    assert (part.name, part.command) == ("kafka", [sys.executable, "-m", "clip_pipeline.cli.main", "kafka"])
