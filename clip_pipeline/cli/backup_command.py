"""`clip-pipeline backup` and `clip-pipeline restore`: a home in another folder, consistent and checked, and back."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.progress import Progress

from clip_pipeline import __version__
from clip_pipeline.cli.backup_contents import Contents, contents_of_backup
from clip_pipeline.cli.configuration import existing_ledger, load_settings
from clip_pipeline.cli.output import console, count, error_console, print_json, progress_bars
from clip_pipeline.core.backup import Backup, BackupFolder, Kept, new_backup_name
from clip_pipeline.core.errors import ConfigurationError, IntegrityError, NotFoundError, StoreError
from clip_pipeline.core.maintenance_lock import maintenance_lock
from clip_pipeline.core.store import Store, sweep_temporaries
from clip_pipeline.ledger.copying import as_one_file, copy_ledger
from clip_pipeline.ledger.database import Ledger, iso_utc, open_ledger

ATTEMPTS = 5
"""Of finding the store as the ledger names it: a batch may be embedded anew, a release pruned, while it is copied."""
LEFTOVER_AGE_S = 24 * 3600.0
PATIENCE_S = 300.0
"""How long maintenance that is under way is waited for."""


@dataclass(frozen=True, slots=True)
class Made:
    """A backup that was made, what of it had to be copied, and what there is to say about it."""

    backup: Backup
    copied: int
    copied_bytes: int
    remarks: tuple[str, ...]


def backup(folder: Path, *, with_uploads: bool, keep: int | None, as_json: bool) -> None:
    """Add a backup to the folder; drop all but the newest `keep` where that is given."""
    settings = load_settings()
    target = BackupFolder(Path(os.path.abspath(folder.expanduser())))
    _require_apart(target.root, settings.home_path)
    with existing_ledger(settings) as ledger, progress_bars(error_console(), transient=True) as progress:
        made = make_backup(ledger, settings.store, target, with_uploads=with_uploads, keep=keep, progress=progress)
    for remark in made.remarks:
        error_console().print(f"note: {remark}")
    files = len(made.backup.files) + 1
    if as_json:
        facts = {"backup": made.backup.name, "folder": str(target.root), "files": files, "release": made.backup.release}
        sizes = {"bytes": made.backup.size_bytes, "copied_files": made.copied, "copied_bytes": made.copied_bytes}
        print_json(facts | sizes | {"notes": list(made.remarks)})
    else:
        whole, copied = made.backup.size_bytes / 1e6, made.copied_bytes / 1e6
        console().print(
            f"Backup {made.backup.name} in {target.root}: {count(files, 'file')}, {whole:,.1f} MB, of which "
            f"{copied:,.1f} MB were copied now"
        )


def make_backup(
    ledger: Ledger,
    store: Store,
    target: BackupFolder,
    *,
    with_uploads: bool = False,
    keep: int | None = None,
    progress: Progress | None = None,
) -> Made:
    """Copy the home as it is at one moment, while it goes on working.

    Raises:
        StoreError: maintenance takes too long, or the backup cannot be written.
        IntegrityError: a file is not what was recorded, however often it is looked at.
    """
    try:
        with maintenance_lock(store, patience_s=PATIENCE_S):
            sweep_temporaries(target.root, older_than_s=LEFTOVER_AGE_S)
            made = _make(ledger, store, target, with_uploads=with_uploads, progress=progress)
            if keep is not None:
                target.drop_old(keep=keep)
            return made
    except OSError as error:
        raise StoreError(f"the backup cannot be written to {target.root}: {error}; the ones before it stay") from error


def _make(ledger: Ledger, store: Store, target: BackupFolder, *, with_uploads: bool, progress: Progress | None) -> Made:
    copied: list[Kept] = []
    for attempt in range(ATTEMPTS):
        with _ledger_copy(ledger) as path:
            try:
                contents = _contents(path, store, with_uploads=with_uploads)
                files = _keep_files(contents, store, target, copied=copied, progress=progress)
            except (FileNotFoundError, IntegrityError, NotFoundError, StoreError):
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            kept, is_new = target.keep(path)
            copied += [kept] if is_new else []
            made = Backup(
                new_backup_name(), iso_utc(datetime.now(UTC)), __version__, kept, contents.encoder_key,
                contents.release, files,
            )  # fmt: skip
            target.record(made)
            return Made(made, len(copied), sum(one.size_bytes for one in copied), contents.remarks)
    raise AssertionError("unreachable")


@contextmanager
def _ledger_copy(ledger: Ledger) -> Iterator[Path]:
    """Where temporary files are: the folder of backups may lie on a network, where SQLite cannot work."""
    with TemporaryDirectory(prefix="clip-backup-") as folder:
        path = Path(folder) / "ledger.sqlite3"
        copy_ledger(ledger, path)
        yield path


def _contents(path: Path, store: Store, *, with_uploads: bool) -> Contents:
    """What the copied ledger names: its own state, not that of the ledger by now."""
    copy = open_ledger(f"sqlite:///{path}")
    try:
        return contents_of_backup(copy, store, with_uploads=with_uploads)
    finally:
        copy.close()
        as_one_file(path)


def _keep_files(
    contents: Contents, store: Store, target: BackupFolder, *, copied: list[Kept], progress: Progress | None
) -> dict[str, Kept]:
    task = progress.add_task("Copying", total=len(contents.items)) if progress else None
    files: dict[str, Kept] = {}
    for item in contents.items:
        kept, is_new = target.keep(item.path, sha256=item.sha256)
        copied += [kept] if is_new else []
        files[item.path.relative_to(store.root).as_posix()] = kept
        if progress and task is not None:
            progress.advance(task)
    return files


def _require_apart(folder: Path, home: Path) -> None:
    if folder == home or folder.is_relative_to(home) or home.is_relative_to(folder):
        raise ConfigurationError(f"{folder} and the home {home} lie in each other; name a folder on another disk")
