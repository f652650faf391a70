"""Sealed embeddings of a batch on disk: vectors, the rows they belong to, the quarantine, and the seal.

`vectors.npy` is float16 [n, d]; row i of `rows.parquet` describes vector i. This is also the layout that the CLIP
tooling of the field reads.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from clip_pipeline.core.errors import IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import ManifestRow, file_sha256
from clip_pipeline.core.reasons import Reason
from clip_pipeline.core.store import Store

StoredVectors: TypeAlias = npt.NDArray[np.float16]

VECTORS, ROWS, QUARANTINE, SEAL = "vectors.npy", "rows.parquet", "quarantine.parquet", "seal.json"
ROW_COLUMNS = {
    "image_id": "int64", "sha256": "str", "path": "str", "format": "str", "width": "int32", "height": "int32",
}  # fmt: skip
QUARANTINE_COLUMNS = {"image_id": "int64", "sha256": "str", "path": "str", "reason": "str"}
UNIT_LENGTH_TOLERANCE = 2e-3
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image of the manifest that could not be embedded, and why."""

    row: ManifestRow
    reason: Reason


@dataclass(frozen=True, slots=True)
class Seal:
    """What a sealed batch states about itself. `digest` covers the content, not the run that made it, so that the
    same images embedded twice by the same encoder carry the same digest."""

    batch: str
    manifest_digest: str
    fingerprint: str
    encoder_name: str
    dim: int
    embedded: int
    quarantined: int
    files: dict[str, str]
    digest: str
    run_id: str
    code_version: str


@dataclass(frozen=True, slots=True)
class SealedEmbeddings:
    """One batch as read back. vectors: float16 [n, d], mapped read-only; rows: `ROW_COLUMNS`, n rows."""

    seal: Seal
    vectors: StoredVectors
    rows: pd.DataFrame
    quarantine: pd.DataFrame


def write_rows(folder: Path, embedded: Sequence[ManifestRow], quarantined: Sequence[Quarantined]) -> None:
    """Write `rows.parquet` and `quarantine.parquet` into `folder` (a temporary one)."""
    _write_frame(folder / ROWS, ROW_COLUMNS, _columns(ROW_COLUMNS, embedded))
    failed = _columns(ROW_COLUMNS, [q.row for q in quarantined]) | {"reason": [str(q.reason) for q in quarantined]}
    _write_frame(folder / QUARANTINE, QUARANTINE_COLUMNS, failed)


def content_digest(files: dict[str, str], *, manifest_digest: str, fingerprint: str) -> str:
    """SHA-256 over the digests of a batch's files and of what they were made from."""
    parts = {"files": files, "manifest": manifest_digest, "fingerprint": fingerprint}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_seal(folder: Path, seal: Seal) -> None:
    """Write `seal.json`, the last file of a batch."""
    (folder / SEAL).write_text(json.dumps(asdict(seal), indent=1, sort_keys=True))


def read_seal(store: Store, encoder_key: str, batch: BatchKey) -> Seal:
    """The seal alone, files not checked.

    Raises:
        StoreError: the batch has no sealed embeddings under this encoder.
        IntegrityError: the seal is not readable as one.
    """
    path = store.embeddings_dir(encoder_key, batch) / SEAL
    try:
        return Seal(**json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise StoreError(f"batch {batch} has no sealed embeddings at {path.parent}; materialize it") from error
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is not a seal ({error}); materialize image_embeddings for {batch}") from error


def read_embeddings(store: Store, encoder_key: str, batch: BatchKey) -> SealedEmbeddings:
    """Everything sealed for one batch, each file checked against the seal.

    Raises:
        StoreError: the batch has no sealed embeddings under this encoder.
        IntegrityError: a file differs from its digest, or counts and shapes do not fit together.
    """
    seal = read_seal(store, encoder_key, batch)
    folder = store.embeddings_dir(encoder_key, batch)
    check_files(folder, seal.files)
    vectors = np.load(folder / VECTORS, mmap_mode="r") if seal.embedded else np.zeros((0, seal.dim), np.float16)
    rows = pd.read_parquet(folder / ROWS, engine="pyarrow")
    quarantine = pd.read_parquet(folder / QUARANTINE, engine="pyarrow")
    if vectors.shape != (seal.embedded, seal.dim) or len(rows) != seal.embedded or len(quarantine) != seal.quarantined:
        raise IntegrityError(
            f"{folder}: vectors {vectors.shape}, {len(rows)} rows, {len(quarantine)} quarantined; the seal says "
            f"{seal.embedded} x {seal.dim} and {seal.quarantined}; materialize image_embeddings for {batch}"
        )
    return SealedEmbeddings(seal, vectors, rows, quarantine)


def check_files(folder: Path, digests: dict[str, str]) -> None:
    """Compare every named file of `folder` with its recorded SHA-256.

    Raises:
        IntegrityError: a file is missing or differs.
    """
    for name, digest in digests.items():
        path = folder / name
        found = file_sha256(path) if path.is_file() else "missing"
        if found != digest:
            raise IntegrityError(f"{path}: recorded digest {digest[:12]}, found {found[:12]}")


def check_unit_length(vectors: StoredVectors) -> None:
    """Every row of float16 [n, d] is finite and of length one within float16 rounding.

    Raises:
        IntegrityError: a row is not.
    """
    norms = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):  # a float32 copy of them all would be the peak of a batch
        rows = vectors[start : start + _ROWS_AT_ONCE].astype(np.float32)
        norms[start : start + len(rows)] = np.linalg.norm(rows, axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= UNIT_LENGTH_TOLERANCE))
    if wrong.size:
        raise IntegrityError(f"{wrong.size} of {len(vectors)} vectors are not of unit length, first at row {wrong[0]}")


def _columns(names: Iterable[str], rows: Sequence[ManifestRow]) -> dict[str, list[object]]:
    # By column: a dictionary for each row would take more memory than the vectors.
    return {name: [getattr(row, name) for row in rows] for name in names}


def _write_frame(path: Path, columns: dict[str, str], values: Mapping[str, Sequence[object]]) -> None:
    frame = pd.DataFrame({name: values[name] for name in columns})
    frame.astype(columns).to_parquet(path, engine="pyarrow", index=False)
