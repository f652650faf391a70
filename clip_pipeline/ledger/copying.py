"""The whole ledger as one SQLite file, and back: the form in which a backup keeps it, whatever database it is in."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url

from clip_pipeline.core.errors import ConflictError, IntegrityError
from clip_pipeline.core.store import replace_file
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.driver import sqlite_driver
from clip_pipeline.ledger.engines import POSTGRESQL
from clip_pipeline.ledger.moving import OnProgress, move_ledger, rows_by_table


def copy_ledger(ledger: Ledger, target: Path, *, on_progress: OnProgress = lambda _name, _rows: None) -> None:
    """Write the state of the whole ledger at one moment to a new file; whoever works with the ledger goes on.

    Raises:
        LedgerBusyError, StoreError: the ledger cannot be read.
    """
    if ledger.engine.dialect.name == POSTGRESQL:
        copy = open_ledger(_url(target))
        try:
            move_ledger(ledger, copy, on_progress=on_progress)
        finally:
            copy.close()
    else:
        _copy_sqlite(ledger, target)
    as_one_file(target)


def as_one_file(path: Path) -> None:
    """Fold the log of a SQLite file that nobody has open into it, so that the file alone is all of it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def ledger_is_empty(url: str) -> bool:
    """Whether a restored ledger could be put there: no SQLite file, or a PostgreSQL database without any row."""
    parsed = make_url(url)
    if parsed.get_backend_name() != POSTGRESQL:
        return not Path(str(parsed.database)).exists()
    ledger = open_ledger(url)
    try:
        return not any(rows_by_table(ledger).values())
    finally:
        ledger.close()


def read_copy(path: Path, workplace: Path) -> Ledger:
    """The ledger of a copied file, brought to the schema of this version in a copy of its own in `workplace`.

    Raises:
        IntegrityError: the file is no sound database.
    """
    own = workplace / "ledger.sqlite3"
    shutil.copyfile(path, own)
    try:
        with closing(sqlite3.connect(own)) as connection:
            said = connection.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        raise IntegrityError(f"{path} is no sound ledger ({said}); take another backup")
    return open_ledger(_url(own))


def put_ledger(path: Path, url: str, *, workplace: Path, on_progress: OnProgress = lambda _name, _rows: None) -> None:
    """Make the ledger at `url` what a copied file holds, all of it or nothing.

    Raises:
        ConflictError: there is a ledger already, and something in it.
    """
    parsed = make_url(url)
    copy = read_copy(path, workplace)
    try:
        if parsed.get_backend_name() == POSTGRESQL:
            _put_postgresql(copy, url, on_progress=on_progress)
            return
    finally:
        copy.close()
    target = Path(str(parsed.database))
    if target.exists():
        raise ConflictError(f"there is a ledger already: {target}; restore into an empty home")
    with replace_file(target) as temporary:
        shutil.copyfile(path, temporary)


def _put_postgresql(copy: Ledger, url: str, *, on_progress: OnProgress) -> None:
    target = open_ledger(url)
    try:
        move_ledger(copy, target, on_progress=on_progress)
    finally:
        target.close()


def _copy_sqlite(ledger: Ledger, target: Path) -> None:
    """In one step: in WAL mode it reads one state, and no writer waits for it."""
    with closing(sqlite3.connect(target)) as copy, sqlite_driver(ledger) as source:
        source.backup(copy)


def _url(path: Path) -> str:
    return f"sqlite:///{path}"
