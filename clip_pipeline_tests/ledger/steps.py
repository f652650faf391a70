"""The steps of the pipeline as the ledger sees them, on made-up contents: what tests of the ledger are written in."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from clip_pipeline.core.inspection import Inspected
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import ManifestRow
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.embedding_results import record_embeddings
from clip_pipeline.ledger.inspection_results import files_of_batch, record_inspection, record_manifest
from clip_pipeline.ledger.planning import plan_batches
from clip_pipeline.ledger.publishing import live_vectors, outstanding, record_release
from clip_pipeline.ledger.registration import FileFacts, Registration, Submission, register_files

ENCODER = "test-encoder"
UNREADABLE = "unreadable content"


def facts(*paths: str, version: int = 1) -> list[FileFacts]:
    return [FileFacts(path, 100 + version, version) for path in paths]


def register(ledger: Ledger, *paths: str, version: int = 1, priority: int = 0) -> Registration:
    return register_files(ledger, facts(*paths, version=version), submission=Submission("api", priority))


def plan(ledger: Ledger, *, batch_size: int = 1000) -> list[BatchKey]:
    return plan_batches(ledger, batch_size=batch_size, most=1000)


def inspect(
    ledger: Ledger, batch: BatchKey, contents: Mapping[str, str], *, digest: str = "", run_id: str = "run"
) -> list[ManifestRow]:
    """Inspect a batch as if each path held the text `contents[path]`; a path that is not in it is missing."""
    results = {file.file_id: found(file.path, contents) for file in files_of_batch(ledger, batch)}
    _, rows = record_inspection(ledger, batch, results)
    sealed = digest or hashlib.sha256(repr([r.sha256 for r in rows]).encode()).hexdigest()
    record_manifest(ledger, batch, digest=sealed, rows=len(rows), run_id=run_id)
    return rows


def found(path: str, contents: Mapping[str, str]) -> Inspected | Reason:
    if path not in contents:
        return Reason(ReasonCode.MISSING, path)
    if contents[path] == UNREADABLE:
        return Reason(ReasonCode.TRUNCATED)
    sha256 = hashlib.sha256(contents[path].encode()).hexdigest()
    return Inspected(
        path=path, size_bytes=101, mtime_ns=1, sha256=sha256, format="PNG", width=4, height=3, orientation=1
    )


def embed(
    ledger: Ledger, batch: BatchKey, rows: Sequence[ManifestRow], *, failing: Mapping[str, ReasonCode] | None = None
) -> None:
    """Embed a manifest; the images whose standing path is in `failing` are quarantined with that reason."""
    broken = failing or {}
    good = [row.image_id for row in rows if row.path not in broken]
    bad = [(row.image_id, Reason(broken[row.path])) for row in rows if row.path in broken]
    digest = hashlib.sha256(f"{good}".encode()).hexdigest()
    record_embeddings(
        ledger, batch, embedded=good, quarantined=bad, manifest_digest="m", embeddings_digest=digest, run_id="run"
    )


def merge(ledger: Ledger, *, number: int = 1) -> None:
    due = outstanding(ledger)
    live, _ = live_vectors(ledger)
    record_release(ledger, ENCODER, number=number, live=live, merged=due.batches, run_id="run")


def index_all(ledger: Ledger, contents: Mapping[str, str]) -> None:
    """Register these paths and bring everything to its end."""
    register(ledger, *contents)
    finish(ledger, contents)


def finish(ledger: Ledger, contents: Mapping[str, str], *, number: int = 1) -> None:
    for batch in plan(ledger):
        embed(ledger, batch, inspect(ledger, batch, contents))
    merge(ledger, number=number)


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)
