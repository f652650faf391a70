"""Fixtures that every folder of tests may use, written in the modules imported here, and the options of a test run."""

import logging
from collections.abc import Iterator

import pytest

from clip_pipeline_tests.ledgers import (
    POSTGRES,
    SQLITE,
    _ledger_of_the_settings,
    empty_ledger_url,
    ledger,
    ledger_database,
    ledger_url,
    new_ledger_url,
)
from clip_pipeline_tests.photos import photo_folder, photos, shared_data
from clip_pipeline_tests.postgres import postgres

__all__ = [
    "_ledger_of_the_settings", "empty_ledger_url", "ledger", "ledger_database", "ledger_url", "new_ledger_url",
    "photo_folder", "photos", "postgres", "shared_data",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A test may set up the logs of the process as a program does: not for those that come after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ledger", choices=(SQLITE, POSTGRES), help="the database of all ledgers; by default SQLite, and in "
        "clip_pipeline_tests/ledger both"
    )  # fmt: skip
