"""`clip-pipeline restore`: an empty home becomes what a backup holds, every digest checked, and is verified."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import Progress

from clip_pipeline.cli.configuration import load_settings, opened_ledger, prepare_home
from clip_pipeline.cli.output import console, count, error_console, print_json, progress_bars
from clip_pipeline.cli.stack.state import running_stack
from clip_pipeline.cli.verify_command import Check, all_checks, print_checks
from clip_pipeline.core.backup import Backup, BackupFolder, checked_path
from clip_pipeline.core.errors import ConflictError, StackError, StoreError, VerificationError
from clip_pipeline.core.store import Store
from clip_pipeline.ledger.copying import ledger_is_empty, put_ledger
from clip_pipeline.settings import Settings

WORKPLACE = ".restoring"
"""Folder in the home that is there from the first to the last step of a restore."""


def restore(folder: Path, *, name: str | None, as_json: bool) -> None:
    """Restore the newest backup of the folder, or the named one, and verify it."""
    settings = load_settings()
    source = BackupFolder(Path(os.path.abspath(folder.expanduser())))
    backup = source.read(name)
    prepare_home(settings)
    with progress_bars(error_console(), transient=True) as progress:
        restore_backup(source, backup, settings, progress=progress)
        with opened_ledger(settings) as ledger:
            checks = all_checks(ledger, settings.store, progress=progress)
    _tell(backup, settings, checks, as_json=as_json)


def restore_backup(
    source: BackupFolder, backup: Backup, settings: Settings, *, progress: Progress | None = None
) -> None:
    """Make an empty home, with an empty ledger, what the backup holds.

    The ledger comes last. Killed before that, the home is one that was never restored, and restoring begins anew.

    Raises:
        ConflictError: the home is not empty.
        StackError: a stack runs on it.
        IntegrityError: a file of the backup is missing or damaged; nothing is restored.
    """
    home, workplace = settings.home_path, settings.home_path / WORKPLACE
    _require_empty(settings)
    try:
        shutil.rmtree(workplace, ignore_errors=True)
        workplace.mkdir()
        _restore_store(source, backup, Store(workplace / "store"), progress=progress)
        copy = workplace / "backup.sqlite3"
        source.restore(backup.ledger, copy)
        if settings.store.root.exists():  # of a restore that was killed before the ledger came
            shutil.rmtree(settings.store.root)
        os.rename(workplace / "store", settings.store.root)
        with TemporaryDirectory(prefix="clip-restore-") as local:  # the home may lie on a network
            put_ledger(copy, settings.ledger_location, workplace=Path(local))
        shutil.rmtree(workplace)
    except OSError as error:
        raise StoreError(f"the backup cannot be restored to {home}: {error}; restore it again") from error


def _restore_store(source: BackupFolder, backup: Backup, store: Store, *, progress: Progress | None) -> None:
    store.root.mkdir()
    task = progress.add_task("Restoring", total=len(backup.files)) if progress else None
    for name, kept in backup.files.items():
        source.restore(kept, store.root / checked_path(name))
        if progress and task is not None:
            progress.advance(task)
    if backup.encoder_key is not None and backup.release is not None:
        store.set_current_release(backup.encoder_key, backup.release)


def _require_empty(settings: Settings) -> None:
    if running_stack(settings.home_path) is not None:
        raise StackError(f"a stack runs on {settings.home_path}; stop it, and restore into an empty home")
    root = settings.store.root
    was_begun = (settings.home_path / WORKPLACE).is_dir()
    has_store = root.is_dir() and any(root.iterdir()) and not was_begun
    if has_store or not ledger_is_empty(settings.ledger_location):
        raise ConflictError(
            f"{settings.home_path} is not empty; set CLIP_PIPELINE_HOME to a new folder, and CLIP_PIPELINE_LEDGER_URL, "
            "where it is used, to an empty database"
        )


def _tell(backup: Backup, settings: Settings, checks: list[Check], *, as_json: bool) -> None:
    sound = all(check.ok is not False for check in checks)
    if as_json:
        facts: Mapping[str, object] = {
            "backup": backup.name,
            "home": str(settings.home_path),
            "files": len(backup.files),
        }
        print_json({**facts, "ok": sound, "checks": [asdict(check) for check in checks]})
    else:
        print_checks(checks)
        console().print(f"Restored backup {backup.name}, {count(len(backup.files), 'file')}, to {settings.home_path}")
    if not sound:
        raise VerificationError(
            f"backup {backup.name} is restored as it was made, but verification found faults; see the report above"
        )
