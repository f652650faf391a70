"""What a store holds that nobody owns: found here, by what the caller knows, and listed before anything is removed.

Only what was last changed before a moment is ever named, so writers at work have nothing to fear.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.store import TEMPORARY_PREFIX, Store

_SHA256 = re.compile(r"[0-9a-f]{64}")

Known = Callable[[Sequence[str]], Set[str]]
"""Which of these contents, by SHA-256, somebody still needs."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file or folder that nobody owns. kind: what it was, in the plural."""

    kind: str
    path: Path
    size_bytes: int


def temporaries(store: Store, *, before: float) -> Iterator[Orphan]:
    """What killed writers left. before: Unix seconds, here and below."""
    for folder in store.writing_folders():
        for path in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")):
            yield from _old(path, kind="temporaries", before=before)


def unknown_batches(store: Store, known: Collection[BatchKey], *, before: float) -> Iterator[Orphan]:
    """Manifests and embeddings of batches that the ledger neither has nor had."""
    for batch in store.stored_batches():
        if batch not in known:
            for path in store.files_of_batch(batch):
                yield from _old(path, kind="batches", before=before)


def unknown_uploads(store: Store, needed: Known, *, before: float) -> Iterator[Orphan]:
    """Uploads that no request refers to."""
    for folder in _folders(store.uploads_dir):
        found = {path.name: path for path in folder.iterdir() if _SHA256.fullmatch(path.name)}
        for sha256 in sorted(found.keys() - needed(sorted(found))):
            yield from _old(found[sha256], kind="uploads", before=before)


def unknown_thumbnails(store: Store, needed: Known, *, before: float) -> Iterator[Orphan]:
    """Thumbnails of contents that are neither indexed nor uploaded any more."""
    for folder in _folders(store.thumbnails_dir):
        found = [(path.name[:64], path) for path in sorted(folder.glob("*.webp")) if _SHA256.match(path.name)]
        known = needed(sorted({sha256 for sha256, _ in found}))
        for sha256, path in found:
            if sha256 not in known:
                yield from _old(path, kind="thumbnails", before=before)


def unknown_labels(store: Store, digests: Collection[str], *, before: float) -> Iterator[Orphan]:
    """Vectors and labels made of label sets that the ledger does not have; digests: of those it has."""
    for encoder_key in store.encoders_with_labels():
        own = {
            path for digest in digests for path in (
                store.image_labels_dir(encoder_key, digest),
                store.label_vectors_path(encoder_key, digest),
                store.label_vectors_path(encoder_key, digest).with_suffix(".json"),
            )
        }  # fmt: skip
        folder = store.labels_dir(encoder_key)
        for path in sorted(set(folder.iterdir()) - own):
            if not path.name.startswith("."):
                yield from _old(path, kind="labels", before=before)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir() and not path.name.startswith("."))


def _old(path: Path, *, kind: str, before: float) -> Iterator[Orphan]:
    try:
        if path.stat().st_mtime < before:
            yield Orphan(kind, path, size_of(path))
    except FileNotFoundError:  # its writer was done with it meanwhile
        return
