"""From the files of a batch to its sealed manifest: inspect, record, write, seal."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from clip_pipeline.core.inspection import Inspected, inspect_files
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.manifest import Manifest, write_manifest
from clip_pipeline.core.reasons import Reason
from clip_pipeline.core.store import Store
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.inspection_results import BatchSummary, files_of_batch, record_inspection, record_manifest


@dataclass(frozen=True, slots=True)
class SealedManifest:
    """What sealing a manifest gave. files: those inspected; seconds: wall time of it all."""

    manifest: Manifest
    summary: BatchSummary
    files: int
    bytes_read: int
    seconds: float


def seal_manifest(
    ledger: Ledger,
    store: Store,
    batch: BatchKey,
    *,
    limits: ImageLimits,
    workers: int,
    run_id: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> SealedManifest:
    """Inspect every file of `batch` once and seal the list of the images they hold.

    The ledger learns of contents first, the file is written from it, and only then does the batch count as sealed:
    a kill between any two steps leaves a batch that simply is inspected again. on_progress: called with (inspected,
    files) after each file.
    """
    started = time.monotonic()
    files = files_of_batch(ledger, batch)
    results: dict[int, Inspected | Reason] = {}
    for index, result in inspect_files([file.path for file in files], limits=limits, workers=workers):
        results[files[index].file_id] = result
        if on_progress is not None:
            on_progress(len(results), len(files))
    summary, rows = record_inspection(ledger, batch, results)
    manifest = write_manifest(store, batch, rows)
    record_manifest(ledger, batch, digest=manifest.digest, rows=len(rows), run_id=run_id)
    read = sum(r.size_bytes for r in results.values() if isinstance(r, Inspected))
    return SealedManifest(manifest, summary, len(files), read, time.monotonic() - started)
