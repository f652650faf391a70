"""compose.yaml: against the schema of the Compose specification, and against what it names."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from clip_pipeline.cli.main import app
from clip_pipeline.cli.stack.plan import CODE_LOCATIONS
from clip_pipeline.core.fleet import read_fleet
from clip_pipeline.settings import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
EXAMPLE = DEPLOY / "compose" / "example.env"
VARIABLE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")
OPEN = {"caddy": ["80:80", "443:443", "443:443/udp"], "prometheus": ["127.0.0.1:9090:9090"]}
MAY_GO_OUTSIDE = {"caddy", "prepare", "prometheus"}
BUILT_HERE = "clip-pipeline:"


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def services(document):
    return document["services"]


def own(services):
    """The services that run this project's image, by name."""
    return {name: service for name, service in services.items() if BUILT_HERE in service["image"]}


def command_of(service):
    command = service.get("command", [])
    return shlex.split(command) if isinstance(command, str) else [str(part) for part in command]


def test_the_file_is_what_the_compose_specification_asks_for():
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    ended = subprocess.run(checker, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_network_volume_and_service_that_is_named_is_there(document, services):
    for name, service in services.items():
        assert set(service["networks"]) <= set(document["networks"]), name
        assert set(service.get("depends_on", {})) <= set(services), name
        named = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith((".", "$"))}
        assert named <= set(document["volumes"]), name


def test_a_service_that_is_waited_for_until_it_is_healthy_has_a_check(services):
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"], f"{name} waits for {other}"


def test_nobody_waits_for_a_service_that_only_a_profile_starts(services):
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert set(services[other].get("profiles", [])) <= set(service.get("profiles", [])), name


def test_every_file_and_folder_that_is_mounted_is_there(services):
    made_by_people = {"./secrets"}
    for name, service in services.items():
        sources = {volume.split(":")[0] for volume in service.get("volumes", [])}
        for source in sources - made_by_people:
            assert not source.startswith(".") or (DEPLOY / source).exists(), f"{name}: {source}"


def test_only_caddy_is_open_to_the_outside(services):
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == OPEN


def test_code_servers_databases_and_workers_are_in_a_network_without_a_way_out(document, services):
    assert {name for name, network in document["networks"].items() if (network or {}).get("internal")} == {
        "private", "edge",
    }  # fmt: skip
    assert {name for name, service in services.items() if "outside" in service["networks"]} == MAY_GO_OUTSIDE
    for name in ("code-control", "code-gpu", "worker", "worker-gpu0", "postgres", "redis", "broker"):
        assert services[name]["networks"] == ["private"], name


@pytest.mark.parametrize("name", yaml.safe_load(COMPOSE.read_text())["services"])
def test_every_service_has_a_limit_a_restart_policy_and_a_check(services, name):
    service = services[name]
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["restart"].startswith("unless-stopped" if name != "prepare" else "on-failure")
    check = service["healthcheck"]
    assert check.get("disable", False) == (name in {"prepare", "kafka"})
    assert "no-new-privileges:true" in service["security_opt"]


def test_our_own_services_have_no_capability_and_write_to_volumes_alone(services):
    for name, service in own(services).items():
        assert (service["cap_drop"], service["read_only"]) == (["ALL"], True), name


def test_no_image_is_taken_at_whatever_version_is_newest(services):
    for name, service in services.items():
        image = VARIABLE.sub(lambda variable: (variable[2] or "")[2:], service["image"])
        assert re.fullmatch(r"\S+:[\w.-]*[\w]", image), name
        assert not image.endswith(":latest"), name


def test_every_variable_is_in_the_example_or_has_a_default_and_the_example_has_no_other():
    text = COMPOSE.read_text()
    used = {name: default or "" for name, default in VARIABLE.findall(text)}
    offered = set(re.findall(r"^#?([A-Z_]+)=", EXAMPLE.read_text(), re.MULTILINE))
    required = {name for name, default in VARIABLE.findall(text) if default.startswith(":?")}
    assert offered <= set(used)
    assert required <= offered
    assert {name for name, default in used.items() if not default} <= required


def test_every_setting_exists(services):
    known = {f"CLIP_PIPELINE_{name.upper()}" for name in Settings.model_fields}
    for name, service in own(services).items():
        given = {variable for variable in service["environment"] if variable.startswith("CLIP_PIPELINE_")}
        assert given <= known, name


def test_every_variable_that_dagsters_settings_name_is_given(services):
    named = set(re.findall(r"env:\s*(\w+)", (DEPLOY / "dagster.yaml").read_text()))
    for name, service in own(services).items():
        assert named <= set(service["environment"]), name


def test_the_code_servers_are_where_dagster_looks_for_them(services):
    workspace = yaml.safe_load((DEPLOY / "compose" / "etc" / "workspace.yaml").read_text())["load_from"]
    asked = {entry["grpc_server"]["location_name"]: entry["grpc_server"] for entry in workspace}
    assert set(asked) == set(CODE_LOCATIONS)
    for location, server in asked.items():
        command = command_of(services[server["host"]])
        assert f"--module-name={CODE_LOCATIONS[location]}" in command
        assert f"--location-name={location}" in command
        assert f"--port={server['port']}" in command


def test_the_workers_are_where_the_fleet_file_says(services):
    (workers,) = read_fleet(DEPLOY / "compose" / "etc" / "fleet.yaml").values()
    for worker in workers:
        command = command_of(services[worker.host])
        assert command[command.index("--host") + 1] == worker.host
        assert command[command.index("--port") + 1] == str(worker.port)


def test_every_command_of_the_project_is_one_that_exists(services):
    for name, service in own(services).items():
        command = command_of(service)
        if command[0] == "clip-pipeline":
            ended = CliRunner().invoke(app, [*command[1:], "--help"])
            assert ended.exit_code == 0, f"{name}: {ended.output}"
        elif command[0] != "sh":
            assert (Path(sys.executable).parent / command[0]).exists(), name


@pytest.mark.slow
def test_dagsters_commands_accept_their_options(services):
    """`--help` last: what stands before it is read first, and an option that is none is an error."""
    for name, service in own(services).items():
        command = command_of(service)
        if command[0].startswith("dagster"):
            program = [str(Path(sys.executable).parent / command[0]), *command[1:], "--help"]
            ended = subprocess.run(program, capture_output=True, text=True, timeout=120, env=dict(os.environ))
            assert ended.returncode == 0, f"{name}: {ended.stderr}"
