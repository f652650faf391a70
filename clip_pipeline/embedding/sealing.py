"""Writing the embeddings of a batch: checked first, then visible, complete or not at all."""

import shutil
from dataclasses import dataclass

import numpy as np

from clip_pipeline import __version__
from clip_pipeline.core.embeddings import (
    QUARANTINE,
    ROWS,
    VECTORS,
    Quarantined,
    Seal,
    StoredVectors,
    check_unit_length,
    content_digest,
    write_rows,
    write_seal,
)
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import IntegrityError, StoreError
from clip_pipeline.core.manifest import Manifest, ManifestRow, file_sha256
from clip_pipeline.core.store import Store, replace_dir


@dataclass(frozen=True, slots=True)
class Embedded:
    """Rows of a manifest and their vectors, float16 [n, d], in the same order."""

    rows: tuple[ManifestRow, ...]
    vectors: StoredVectors


def seal_embeddings(
    store: Store,
    spec: EncoderSpec,
    manifest: Manifest,
    *,
    embedded: Embedded,
    quarantined: tuple[Quarantined, ...],
    run_id: str,
) -> Seal:
    """Write, check and seal the embeddings of one batch; they become visible complete or not at all.

    Raises:
        StoreError: they cannot be written.
        IntegrityError: what was written is not what may be published.
    """
    target = store.embeddings_dir(spec.key, manifest.batch)
    try:
        with replace_dir(target) as folder:
            np.save(folder / VECTORS, embedded.vectors)
            write_rows(folder, embedded.rows, quarantined)
            files = {name: file_sha256(folder / name) for name in (VECTORS, ROWS, QUARANTINE)}
            seal = Seal(
                batch=str(manifest.batch),
                manifest_digest=manifest.digest,
                fingerprint=spec.fingerprint,
                encoder_name=spec.name,
                dim=spec.dim,
                embedded=len(embedded.rows),
                quarantined=len(quarantined),
                files=files,
                digest=content_digest(files, manifest_digest=manifest.digest, fingerprint=spec.fingerprint),
                run_id=run_id,
                code_version=__version__,
            )
            written = np.load(folder / VECTORS, mmap_mode="r" if embedded.rows else None)  # nothing cannot be mapped
            _check_written(written, seal, images=len(manifest.rows))
            write_seal(folder, seal)
    except OSError as error:
        # NumPy says how many bytes it could not write, but not why.
        free = shutil.disk_usage(target.parent).free if target.parent.is_dir() else 0
        raise StoreError(
            f"batch {manifest.batch} was embedded but cannot be written below {target.parent}: {error} ({free} bytes "
            "free there); nothing of it is visible. Free space or permit writing there, and run it again"
        ) from error
    return seal


def _check_written(vectors: StoredVectors, seal: Seal, *, images: int) -> None:
    if vectors.shape != (seal.embedded, seal.dim) or seal.embedded + seal.quarantined != images:
        raise IntegrityError(
            f"batch {seal.batch}: vectors {vectors.shape} and {seal.quarantined} quarantined for {images} images, "
            f"expected {seal.embedded} x {seal.dim}; nothing was published"
        )
    check_unit_length(vectors)
