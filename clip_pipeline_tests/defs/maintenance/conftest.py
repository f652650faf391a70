"""A small home for each test."""

import pytest

from clip_pipeline_tests.small_home import SmallHome


@pytest.fixture
def small_home(tmp_path, ledger_url, monkeypatch):
    monkeypatch.setattr("clip_pipeline.cli.verify_command.PAUSE_S", 0.0)
    home = SmallHome(tmp_path / "home", ledger_url=ledger_url)
    yield home
    home.close()
