"""The settings of a command: the environment, what its options put in place of it, and the state that they name."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from clip_pipeline.core.errors import ConfigurationError, NotFoundError, StoreError
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.engines import ledger_file
from clip_pipeline.settings import Settings


def load_settings(**overrides: object) -> Settings:
    """The settings of the environment, with those options in their place that are not None.

    Raises:
        ConfigurationError: a value is not of its kind; names the variable.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        faults = [f"CLIP_PIPELINE_{str(f['loc'][0]).upper()}={f['input']!r}: {f['msg']}" for f in error.errors()]
        raise ConfigurationError("; ".join(faults)) from None


def folder_list(folders: Sequence[Path]) -> str:
    """Existing folders as a setting that holds a list of them.

    Raises:
        ConfigurationError: one does not exist, is no folder, cannot be read, or has a colon in its path.
    """
    return ":".join(str(checked_folder(folder)) for folder in folders)


def checked_folder(folder: Path) -> Path:
    """The absolute path of a folder that can be listed and written into a setting. Raises ConfigurationError."""
    path = Path(os.path.abspath(folder.expanduser()))
    if not path.exists():
        raise ConfigurationError(f"the folder {path} does not exist; create it or name another one")
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a folder; name the folder that the images are in")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigurationError(f"the folder {path} cannot be read; change its permissions")
    if ":" in str(path):
        raise ConfigurationError(f"a watched folder cannot have a colon in its path: {path}; rename it or link to it")
    return path


def prepare_home(settings: Settings) -> None:
    """Make the home where there is none. Raises StoreError where it cannot be written."""
    try:
        settings.home_path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {settings.home_path}: {error.strerror}; set CLIP_PIPELINE_HOME") from error
    if not os.access(settings.home_path, os.W_OK | os.X_OK):
        raise StoreError(f"{settings.home_path} cannot be written; set CLIP_PIPELINE_HOME to a folder that can")


@contextmanager
def existing_ledger(settings: Settings) -> Generator[Ledger, None, None]:
    """The ledger of a home that has one, for commands that only look.

    Raises:
        NotFoundError: nothing was ever indexed there.
    """
    file = ledger_file(settings.ledger_location)
    if file is not None and not file.exists():
        raise NotFoundError(
            f"nothing was indexed in {settings.home_path} yet; start with `clip-pipeline up --watch FOLDER`, or set "
            "CLIP_PIPELINE_HOME to where your index is"
        )
    with opened_ledger(settings) as ledger:
        yield ledger


@contextmanager
def opened_ledger(settings: Settings) -> Generator[Ledger, None, None]:
    """The ledger, made or migrated first, closed at the end of the block."""
    ledger = open_ledger(settings.ledger_location)
    try:
        yield ledger
    finally:
        ledger.close()
