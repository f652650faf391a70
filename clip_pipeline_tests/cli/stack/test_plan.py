"""What is started, with what in its environment, and the files that Dagster reads."""

from pathlib import Path

import pytest
import yaml

from clip_pipeline.cli.stack.plan import CODE_LOCATIONS, StackPlan, instance_settings
from clip_pipeline.cli.stack.processes import MARKER
from clip_pipeline_tests.serving.world import settings_of

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def plan(tmp_path):
    settings = settings_of(tmp_path / "home", watch=str(tmp_path / "photos"), port=8001, dagster_port=3001)
    return StackPlan(settings, {"control": 4001, "gpu": 4002})


def test_the_packaged_instance_settings_are_those_at_the_top_of_the_repository():
    assert instance_settings() == (ROOT / "dagster.yaml").read_bytes()


def test_the_workspace_names_each_code_server_once(plan):
    plan.write_files()
    entries = yaml.safe_load(plan.workspace.read_text())["load_from"]
    found = {entry["grpc_server"]["location_name"]: entry["grpc_server"]["port"] for entry in entries}
    assert found == {"control": 4001, "gpu": 4002}
    assert list(found) == list(CODE_LOCATIONS)
    assert (plan.dagster_home / "dagster.yaml").read_bytes() == instance_settings()


def test_code_locations_are_those_of_the_workspace_for_developers():
    entries = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    modules = {e["python_module"]["location_name"]: e["python_module"]["module_name"] for e in entries}
    assert modules == dict(CODE_LOCATIONS)


def test_children_find_every_choice_in_their_environment_as_absolute_paths(plan, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIP_PIPELINE_BATCH_SIZE", "7")
    found = plan.service().environment
    assert found["CLIP_PIPELINE_WATCH"] == found["CLIP_PIPELINE_ROOTS"] == str(tmp_path / "photos")
    assert (found["CLIP_PIPELINE_PORT"], found["CLIP_PIPELINE_DAGSTER_PORT"]) == ("8001", "3001")
    assert found["CLIP_PIPELINE_HOME"] == found[MARKER] == str(tmp_path / "home")
    assert found["DAGSTER_HOME"] == str(tmp_path / "home" / "dagster")
    assert found["CLIP_PIPELINE_BATCH_SIZE"] == "7"


def test_an_instance_is_prepared_once_for_each_version_of_dagster(plan, monkeypatch):
    assert not plan.is_instance_prepared()
    plan.note_instance_prepared()
    assert plan.is_instance_prepared()
    monkeypatch.setattr("clip_pipeline.cli.stack.plan.version", lambda _name: "9.9.9")
    assert not plan.is_instance_prepared()
