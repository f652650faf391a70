"""A folder of backups: contents by digest, each once, and for each backup one document that says which it consists of.

    objects/<sha256[:2]>/<sha256>       files of the store and copies of the ledger
    backups/<UTC time>-<hex>.json       one finished backup

The document is written last, so a backup that was killed is none, and costs the one before nothing. What an earlier
backup brought is not copied again.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from clip_pipeline.core.errors import IntegrityError, NotFoundError, StoreError
from clip_pipeline.core.store import TEMPORARY_PREFIX, fsync_path, replace_file

FORMAT = 1
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{4}")
_BLOCK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class Kept:
    """A file as a backup holds it."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Backup:
    """One finished backup. ledger: a SQLite file; files: path below the store -> content; release: the number of the
    one that it holds, of `encoder_key`; both None before the first."""

    name: str
    created_at: str
    code_version: str
    ledger: Kept
    encoder_key: str | None
    release: int | None
    files: Mapping[str, Kept] = field(default_factory=dict[str, Kept])

    @property
    def size_bytes(self) -> int:
        """Of all its files together."""
        return self.ledger.size_bytes + sum(kept.size_bytes for kept in self.files.values())


@dataclass(frozen=True, slots=True)
class BackupFolder:
    """The folder that backups are written to and read from."""

    root: Path

    def object_path(self, sha256: str) -> Path:
        """Where a content lies."""
        return self.root / "objects" / sha256[:2] / sha256

    def keep(self, source: Path, *, sha256: str | None = None) -> tuple[Kept, bool]:
        """Keep a file, whose digest may be known; also whether it had to be copied.

        Raises:
            FileNotFoundError: there is no such file (any more).
            IntegrityError: its content is another than that of the known digest.
        """
        if sha256 is not None and self._holds(sha256, source.stat().st_size):
            return Kept(sha256, source.stat().st_size), False
        return self._copy(source, sha256)

    def record(self, backup: Backup) -> None:
        """Say that a backup is finished: all its contents are here and flushed to disk."""
        for sha256 in {backup.ledger.sha256, *(kept.sha256 for kept in backup.files.values())}:
            if not self.object_path(sha256).is_file():
                raise StoreError(f"{self.object_path(sha256)} vanished while the backup was made; make it again")
        document: dict[str, Any] = {"format": FORMAT, **asdict(backup)}
        document["digest"] = _digest(document)
        with replace_file(self._document_path(backup.name)) as temporary:
            temporary.write_text(json.dumps(document, indent=1, sort_keys=True))

    def names(self) -> list[str]:
        """The finished backups, oldest first."""
        return sorted(path.stem for path in self.root.glob("backups/*.json") if _NAME.fullmatch(path.stem))

    def read(self, name: str | None = None) -> Backup:
        """One finished backup, the newest by default.

        Raises:
            NotFoundError: there is none, or none of that name; says so where one was begun and never finished.
            IntegrityError: its document is not what was written.
        """
        chosen = name or self._newest()
        path = self._document_path(chosen)
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            if document.pop("digest") != _digest(document) or document.pop("format") != FORMAT:
                raise ValueError("it was changed since, or written by another version")
            files = {name: Kept(**kept) for name, kept in document.pop("files").items()}
            return Backup(ledger=Kept(**document.pop("ledger")), files=files, **document)
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no backup {chosen} in {self.root}; there are: {self.names()}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"{path} is not the document of a backup ({error}); restore another one") from error

    def restore(self, kept: Kept, target: Path) -> None:
        """Copy one content to `target`, which is not there yet.

        Raises:
            IntegrityError: it is missing, or not what was kept.
        """
        source = self.object_path(kept.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = _copy_hashed(source, target)
        except FileNotFoundError as error:
            raise IntegrityError(f"{source} is missing; restore another backup") from error
        if found != kept:
            raise IntegrityError(f"{source} is damaged: its digest is {found.sha256[:12]}; restore another backup")

    def drop_old(self, *, keep: int) -> tuple[list[str], int]:
        """Remove all but the newest `keep` backups and what only they, or killed ones, needed; names, and bytes.

        Only while no backup is being written to this folder.
        """
        removed = self.names()[: -max(1, keep)]
        for name in removed:
            self._document_path(name).unlink()
        needed: set[str] = set()
        for name in self.names():
            backup = self.read(name)
            needed |= {backup.ledger.sha256, *(kept.sha256 for kept in backup.files.values())}
        freed = 0
        for path in self._objects():
            if path.name not in needed:
                freed += path.stat().st_size
                path.unlink()
        return removed, freed

    def temporary(self) -> Path:
        """A new temporary path in this folder, for a file that is to be kept; the caller removes it."""
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}"

    def _newest(self) -> str:
        names = self.names()
        if names:
            return names[-1]
        if any(self._objects()):
            raise NotFoundError(
                f"the backup in {self.root} was never finished: its document is missing, so nobody knows whether all "
                "of it is there. Run `clip-pipeline backup` again, which goes on where it stopped"
            )
        raise NotFoundError(f"{self.root} holds no backup; make one with `clip-pipeline backup {self.root}`")

    def _objects(self) -> Iterator[Path]:
        return (path for path in self.root.glob("objects/*/*") if path.is_file())

    def _document_path(self, name: str) -> Path:
        return self.root / "backups" / f"{name}.json"

    def _holds(self, sha256: str, size_bytes: int) -> bool:
        try:
            return self.object_path(sha256).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def _copy(self, source: Path, sha256: str | None) -> tuple[Kept, bool]:
        temporary = self.temporary()
        try:
            kept = _copy_hashed(source, temporary)
            if sha256 is not None and kept.sha256 != sha256:
                raise IntegrityError(f"{source}: recorded digest {sha256[:12]}, found {kept.sha256[:12]}")
            if self._holds(kept.sha256, kept.size_bytes):
                return kept, False
            target = self.object_path(kept.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
            fsync_path(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return kept, True


def new_backup_name(now: datetime | None = None) -> str:
    """`20251114T143025.123456Z-7f3a`: sorts by time, two of one second too."""
    return f"{now or datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(2)}"


def checked_path(name: str) -> PurePosixPath:
    """A path below a store, as a backup's document has it. Raises IntegrityError where it leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or any(part in ("..", "") for part in path.parts):
        raise IntegrityError(f"the backup names the file {name!r}, which lies in no store; it was not written by us")
    return path


def _copy_hashed(source: Path, target: Path) -> Kept:
    """Copy a file, flushed to disk, reading it once; returns what was read."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    return Kept(digest.hexdigest(), size)


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
