"""Fixtures that every folder of tests may use, written in the modules imported here, and the options of a test run."""

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ledger", choices=(SQLITE, POSTGRES), help="the database of all ledgers; by default SQLite, and in "
        "clip_pipeline_tests/ledger both"
    )  # fmt: skip
