"""A ledger on a fresh SQLite file for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clip_pipeline.ledger.database import Ledger, open_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite3")
    yield opened
    opened.close()
