"""A stack for a test, stopped and with nothing left behind afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_pipeline_tests.e2e.stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "home", tmp_path / "watched")
    yield made
    try:
        made.stop()
    finally:
        made.kill_everything()
