"""The tests of the ledger run on each database it can be in."""

import pytest

from clip_pipeline_tests.ledgers import POSTGRES, SQLITE


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "ledger_database" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--ledger")
        metafunc.parametrize("ledger_database", [chosen] if chosen else [SQLITE, POSTGRES])
