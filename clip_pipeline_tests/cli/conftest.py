"""A home with real images registered, embedded by a cheap encoder and published; commands run as `main` runs them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from PIL import Image

from clip_pipeline.cli import main as grammar
from clip_pipeline_tests.serving.world import World


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own; no command of any test ever sees another."""
    path = tmp_path / "home"
    for name, value in {"HOME": str(path), "PORT": "1", "DAGSTER_PORT": "1", "WATCH": "", "ROOTS": ""}.items():
        monkeypatch.setenv(f"CLIP_PIPELINE_{name}", value)
    return path


@pytest.fixture
def world(home):
    opened = World(home)
    yield opened
    opened.close()


@pytest.fixture
def command(capsys, monkeypatch) -> Command:
    """Runs the command line in this process."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["clip-pipeline", *(str(argument) for argument in arguments)])
        status = 0
        try:
            grammar.main()
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capsys.readouterr()
        return Ended(status, printed.out, printed.err)

    return run


@pytest.fixture
def pictures(tmp_path):
    """A folder with three pictures in plain colours and one of them twice, one of them below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name, colour in {"red.png": "red", "below/blue.png": "blue", "copy.png": "red"}.items():
        Image.new("RGB", (40, 30), colour).save(folder / name)
    return folder
