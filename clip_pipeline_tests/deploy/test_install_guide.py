"""The installation guide: that what it names exists, and that its commands are ones that the programs know."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clip_pipeline.cli.main import app
from clip_pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "install.md"
TEXT = GUIDE.read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
UNITS = {path.name for path in (ROOT / "deploy" / "systemd").iterdir()}
MADE_BY_PEOPLE = {"deploy/.env", "deploy/secrets", "deploy/secrets/prometheus.key"}
# Where Debian's `shlex` would stop: what the shell does before a command is run.
SUBSTITUTED = re.compile(r"\$\([^()]*\)|\$\{[^}]*\}")


def own_commands():
    """Every call of the command line in a block or between backticks, as words."""
    spoken = re.findall(r"`(clip-pipeline [^`]+)`", TEXT)
    typed = re.findall(r"(?:^|[(]|prepare )(clip-pipeline (?!:)[a-z].*)$", "\n".join(BLOCKS), re.MULTILINE)
    plain = [SUBSTITUTED.sub("x", command).partition(" >")[0].partition(')"')[0] for command in (*spoken, *typed)]
    return sorted({command for command in plain if not command.startswith("clip-pipeline.")})


def test_there_are_commands_to_look_at():
    assert len(BLOCKS) > 15
    assert len(own_commands()) > 8


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_is_shell_that_bash_can_read(block):
    ended = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("command", own_commands())
def test_every_command_of_the_project_and_its_options_exist(command):
    """`--help` last: what stands before it is read first, and an option that is none is an error."""
    _, *words = shlex.split(command)
    ended = CliRunner().invoke(app, [*words, "--help"])
    assert ended.exit_code == 0, ended.output


def test_every_file_of_the_project_that_is_named_exists():
    named = set(re.findall(r"(?<![\w-])deploy/[\w./@*-]*\w\*?", TEXT)) - MADE_BY_PEOPLE
    assert len(named) > 6
    for pattern in named:
        assert list(ROOT.glob(pattern)), pattern


def test_every_unit_that_is_named_exists():
    named = set(re.findall(r"\bclip-pipeline-(?!\$)[a-z-]+[a-z](?:@(?=\d|N|\.|\*))?", TEXT)) - {"clip-pipeline-probe"}
    for name in named:
        assert {f"{name}.service", f"{name}@.service"} & UNITS, name


def test_every_unit_is_told_of():
    for unit in UNITS:
        if unit.endswith(".service"):
            assert unit.removesuffix(".service").removesuffix("@") in TEXT, unit


def test_the_table_of_ports_holds_those_of_the_units():
    (table,) = re.findall(r"^\| port \|.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)
    units = "\n".join(path.read_text() for path in (ROOT / "deploy" / "systemd").glob("*.service"))
    ports = set(re.findall(r"--port (\d+)", units)) | {str(Settings.model_fields["port"].default)}
    assert ports <= set(re.findall(r"\d+", table))


def test_every_setting_that_is_named_exists():
    known = {f"CLIP_PIPELINE_{name.upper()}" for name in Settings.model_fields}
    caddy = set(re.findall(r"^#?(\w+)=", (ROOT / "deploy" / "caddy" / "caddy.env").read_text(), re.MULTILINE))
    assert set(re.findall(r"CLIP_PIPELINE_[A-Z_]*[A-Z]", TEXT)) <= known | caddy


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, heading = target.partition("#")
        assert not file or (GUIDE.parent / file).exists(), target
        assert not heading or heading in re.sub(r"[^\w\n -]", "", TEXT.lower()).replace(" ", "-"), target
