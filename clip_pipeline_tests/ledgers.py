"""Which database the ledgers of tests are in: SQLite, or PostgreSQL with `pytest --ledger postgres`.

Every test has ledgers of its own, in files of its temporary folder or in databases that are dropped after it.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path

import pytest

from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.engines import ledger_file

SQLITE, POSTGRES = "sqlite", "postgres"
VARIABLE = "CLIP_PIPELINE_LEDGER_URL"

NewLedgerUrl = Callable[[], str]


@pytest.fixture
def ledger_database(request: pytest.FixtureRequest) -> str:
    """Which database it is; a folder whose tests run on each overrides this."""
    return request.config.getoption("--ledger") or SQLITE


@pytest.fixture
def new_ledger_url(request: pytest.FixtureRequest, ledger_database: str, tmp_path: Path) -> Iterator[NewLedgerUrl]:
    """Makes URLs of ledgers that hold nothing yet."""
    if ledger_database == SQLITE:
        numbers = count(1)
        yield lambda: f"sqlite:///{tmp_path}/ledger_{next(numbers)}.sqlite3"
        return
    server, made = request.getfixturevalue("postgres"), []

    def make() -> str:
        made.append(server.new_database())
        return made[-1]

    yield make
    for url in made:
        server.give_back(url)


@pytest.fixture
def ledger_url(new_ledger_url: NewLedgerUrl) -> str:
    return with_tables(new_ledger_url())


@pytest.fixture
def empty_ledger_url(request: pytest.FixtureRequest, ledger_database: str, tmp_path: Path) -> Iterator[str]:
    """Where nothing was ever opened: the database has no tables."""
    if ledger_database == SQLITE:
        yield f"sqlite:///{tmp_path}/empty.sqlite3"
        return
    server = request.getfixturevalue("postgres")
    url = server.new_empty_database()
    yield url
    server.drop_database(url)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    opened = open_ledger(ledger_url)
    yield opened
    opened.close()


def with_tables(url: str) -> str:
    """The URL, at which a SQLite file that was not there holds an empty ledger now.

    A copy of one that was migrated: a fifth of the time that the migrations take, for some two thousand tests.
    """
    path = ledger_file(url)
    if path is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_migrated_file(), path)
    return url


@lru_cache(maxsize=1)
def _migrated_file() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="clip-ledger-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "ledger.sqlite3"
    open_ledger(f"sqlite:///{path}").close()
    return path


@pytest.fixture(autouse=True)
def _ledger_of_the_settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `--ledger postgres` whatever reads the settings, here and in child processes, is on PostgreSQL too."""
    # Whatever ledger the person has who runs the tests is no business of theirs.
    monkeypatch.delenv(VARIABLE, raising=False)
    if request.config.getoption("--ledger") == POSTGRES:
        monkeypatch.setenv(VARIABLE, request.getfixturevalue("new_ledger_url")())
