"""The manifest of a batch: the immutable list of images that one batch embeds, one row for each distinct content."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clip_pipeline.core.errors import IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.store import Store, replace_file

COLUMNS = {
    "image_id": "int64",
    "sha256": "str",
    "path": "str",
    "size_bytes": "int64",
    "mtime_ns": "int64",
    "format": "str",
    "width": "int32",
    "height": "int32",
    "orientation": "int8",
}


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image. `path` is the text form (`core.paths`) of the file that stands for it; width and height, in
    pixels, are those a person sees (EXIF `orientation`, 1 to 8, applied)."""

    image_id: int
    sha256: str
    path: str
    size_bytes: int
    mtime_ns: int
    format: str
    width: int
    height: int
    orientation: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """A sealed manifest: its rows by ascending image_id, and the SHA-256 of the file they came from."""

    batch: BatchKey
    digest: str
    rows: Sequence[ManifestRow]


def write_manifest(store: Store, batch: BatchKey, rows: Sequence[ManifestRow]) -> Manifest:
    """The manifest as sealed on disk. The same rows give the same bytes and so the same digest."""
    ordered = sorted(rows, key=lambda row: row.image_id)
    columns = {name: [getattr(row, name) for row in ordered] for name in COLUMNS}
    path = store.manifest_path(batch)
    with replace_file(path) as temporary:
        pd.DataFrame(columns).astype(COLUMNS).to_parquet(temporary, engine="pyarrow", index=False)
        digest = file_sha256(temporary)
    return Manifest(batch, digest, ordered)


def read_manifest(store: Store, batch: BatchKey, *, digest: str | None = None) -> Manifest:
    """The sealed manifest of `batch`.

    Raises:
        StoreError: there is none.
        IntegrityError: the file is not the one whose `digest` was recorded, or is no manifest.
    """
    path = store.manifest_path(batch)
    if not path.is_file():
        raise StoreError(f"batch {batch} has no manifest at {path}; materialize image_manifest for this partition")
    found = file_sha256(path)
    if digest is not None and found != digest:
        raise IntegrityError(
            f"{path} has digest {found[:12]}, recorded was {digest[:12]}; materialize image_manifest for {batch} anew"
        )
    frame = pd.read_parquet(path, engine="pyarrow")
    if list(frame.columns) != list(COLUMNS):
        raise IntegrityError(f"{path} has columns {list(frame.columns)}, expected {list(COLUMNS)}")
    values = zip(*(frame[name].tolist() for name in COLUMNS), strict=True)
    return Manifest(batch, found, [ManifestRow(*row) for row in values])


def file_sha256(path: Path) -> str:
    """64 hex digits over the bytes of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
