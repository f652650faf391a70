"""Settings: their defaults, and that the page about them tells of every one."""

from pathlib import Path

import pytest

from clip_pipeline.settings import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_page_about_settings_tells_of_each_with_its_meaning(name: str):
    line = next(line for line in PAGE.read_text().splitlines() if f"`CLIP_PIPELINE_{name.upper()}`" in line)
    assert str(Settings.model_fields[name].description) in line


def test_folder_lists_are_split_made_absolute_and_watched_folders_are_roots(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLIP_PIPELINE_ROOTS", "/a:relative")
    monkeypatch.setenv("CLIP_PIPELINE_WATCH", "/w:/a")
    settings = Settings()
    assert settings.watch_folders == (Path("/w"), Path("/a"))
    assert settings.root_folders == (Path("/a"), Path.cwd() / "relative", Path("/w"))


def test_the_ledger_is_sqlite_below_the_home_unless_a_url_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLIP_PIPELINE_HOME", "/home/x")
    assert Settings().ledger_location == "sqlite:////home/x/ledger.sqlite3"
    monkeypatch.setenv("CLIP_PIPELINE_LEDGER_URL", "postgresql://db/clip")
    assert Settings().ledger_location == "postgresql://db/clip"
