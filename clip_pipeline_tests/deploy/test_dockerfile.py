"""The Dockerfile, as far as it can be judged without building an image."""

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    # The parser writes where it is told to read: a copy.
    copy = tmp_path_factory.mktemp("docker") / "Dockerfile"
    copy.write_text((DEPLOY / "Dockerfile").read_text())
    return DockerfileParser(str(copy)).structure


@pytest.fixture(scope="module")
def stages(instructions):
    """Name of a stage -> (what it is made from, its instructions)."""
    found, name = {}, ""
    for instruction in instructions:
        if instruction["instruction"] == "FROM":
            origin, _, name = instruction["value"].split()
            found[name] = (origin, [])
        elif found and instruction["instruction"] != "COMMENT":
            found[name][1].append(instruction)
    return found


def values(stage, kind):
    return [instruction["value"] for instruction in stage[1] if instruction["instruction"] == kind]


def test_every_stage_is_made_from_one_before_it_or_from_the_base(stages):
    names = list(stages)
    for number, name in enumerate(names):
        assert stages[name][0] in {"${BASE}", *names[:number]}
        for value in values(stages[name], "COPY"):
            (source,) = re.findall(r"--from=(\S+)", value) or [None]
            assert source is None or source in names[:number]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_both_targets_end_as_a_user_that_is_not_root(stages, target):
    assert values(stages[target], "USER") == ["10001:10001"]
    assert stages[target][1][-1]["instruction"] == "USER"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_both_targets_inherit_the_check_and_start_by_an_init_that_reaps(stages, target):
    assert stages[target][0] == "runtime"
    (check,) = values(stages["runtime"], "HEALTHCHECK")
    assert json.loads(check.partition("CMD ")[2]) == ["clip-pipeline-probe", "http://127.0.0.1:8000/health"]
    assert json.loads(values(stages["runtime"], "ENTRYPOINT")[0])[0] == "/usr/bin/tini"
    assert json.loads(values(stages["runtime"], "CMD")[0]) == ["clip-pipeline", "api"]


def test_all_that_pip_installs_is_pinned(stages):
    for name, stage in stages.items():
        for command in values(stage, "RUN"):
            for install in re.findall(r"pip install (.*?)(?:&&|$)", command):
                assert (
                    "--constraint constraints.txt" in install or "^torch==" in install or "--no-deps /tmp" in install
                ), name


def test_the_context_holds_what_is_copied_and_nothing_else(stages):
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = [line[1:] for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    sources = set()
    for stage in stages.values():
        for value in values(stage, "COPY"):
            if not value.startswith("--from="):
                sources.update(value.split()[:-1])
    assert sources == set(allowed)
    assert all((ROOT / source).exists() for source in sources)


def test_secrets_and_state_stay_out_of_the_context():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for private in (".git/config", ".clip_pipeline/ledger.sqlite3", "deploy/.env", "deploy/secrets/prometheus.key"):
        assert not any(fnmatch.fnmatch(private, f"{pattern}*") for pattern in allowed), private


def test_the_requirements_are_those_of_the_project_and_the_extras_named():
    command = [sys.executable, str(DEPLOY / "requirements.py"), "api", "postgres"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert printed.splitlines() == [*project["dependencies"], *extras["api"], *extras["postgres"]]
