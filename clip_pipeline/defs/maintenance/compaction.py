"""Many small batches become one: copied, swapped in the ledger in one step, and cleared away once nothing needs them.

Killed before the swap, there are files that no batch of the ledger owns, which the sweep finds; killed after it, there
is a batch that the next merge puts into the place of the old ones. Until that merge the published release goes on
finding every image by the old ones, whose files stay for as long as any release on disk names them. No Dagster here.
"""

import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from clip_pipeline.core.compaction import FinishedBatch, groups_to_compact
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ClipPipelineError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.maintenance_lock import maintenance_lock
from clip_pipeline.core.manifest import write_manifest
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.release import referenced_batches
from clip_pipeline.core.store import Store, discard
from clip_pipeline.embedding.compaction import compact_embeddings
from clip_pipeline.ledger.compaction import (
    BatchContents,
    SealedAs,
    contents_of,
    finished_batches,
    record_removed,
    removable_batches,
    reserve_batch,
    swap_batches,
)
from clip_pipeline.ledger.database import Ledger, iso_utc

logger = logging.getLogger(__name__)

MOST_GROUPS = 100
"""Of one run: a million images of full batches, and as many rows in the merge that follows."""


@dataclass(frozen=True, slots=True)
class CompactedBatch:
    """A batch that took the place of others. images: those with a vector; quarantined: those without."""

    key: BatchKey
    compacted_from: tuple[BatchKey, ...]
    images: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Compaction:
    """What one run did. postponed: groups that changed meanwhile; removed: batches whose files were deleted."""

    compacted: tuple[CompactedBatch, ...]
    postponed: int
    removed: tuple[BatchKey, ...]


def planned_groups(
    ledger: Ledger, *, batch_size: int, older_than: datetime, busy: Set[BatchKey] = frozenset()
) -> list[tuple[FinishedBatch, ...]]:
    """The groups that would be compacted now, at most `MOST_GROUPS`. busy: batches that a run may be working on."""
    finished = finished_batches(ledger, older_than=iso_utc(older_than), fewer_than=batch_size)
    idle = [batch for batch in finished if batch.key not in busy]
    return groups_to_compact(idle, batch_size=batch_size)[:MOST_GROUPS]


def compact_batches(
    ledger: Ledger,
    store: Store,
    *,
    batch_size: int,
    older_than: datetime,
    run_id: str,
    busy: Set[BatchKey] = frozenset(),
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Compaction:
    """Compact the small batches that nothing happened to since a moment, and clear away those retired before it.

    on_progress: called with (done, all) groups.

    Raises:
        StoreError: other maintenance or a backup is under way; or some groups could not be compacted, after all others.
    """
    with maintenance_lock(store):
        spec = pinned_encoder(store)
        groups = planned_groups(ledger, batch_size=batch_size, older_than=older_than, busy=busy) if spec else []
        compacted: list[CompactedBatch] = []
        faults: list[str] = []
        for done, group in enumerate(groups, start=1):
            assert spec is not None
            try:
                keys = [batch.key for batch in group]
                made = _compact(ledger, store, spec, keys, older_than=older_than, run_id=run_id)
            except ClipPipelineError as error:
                faults.append(f"{group[0].key} to {group[-1].key}: {error}")
            else:
                compacted += [made] if made else []
            on_progress(done, len(groups))
        removed = remove_retired(ledger, store, retired_before=older_than)
    if faults:
        raise StoreError(f"{len(faults)} of {len(groups)} groups were not compacted: {'; '.join(faults)[:1000]}")
    return Compaction(tuple(compacted), len(groups) - len(compacted), tuple(removed))


def remove_retired(ledger: Ledger, store: Store, *, retired_before: datetime) -> list[BatchKey]:
    """Delete the files of compacted batches that no release on disk refers to any more; returns which.

    Only the caller deletes, under the lock. Raises IntegrityError where a release cannot be read.
    """
    needed = referenced_batches(store)
    removed = [
        key for key in removable_batches(ledger, retired_before=iso_utc(retired_before)) if str(key) not in needed
    ]
    for key in removed:
        discard_batch(store, key)
    if removed:
        record_removed(ledger, removed)
    return removed


def discard_batch(store: Store, key: BatchKey) -> None:
    """Delete what is stored of one batch, its manifest last."""
    for path in store.files_of_batch(key):
        discard(path)


def _compact(
    ledger: Ledger, store: Store, spec: EncoderSpec, keys: Sequence[BatchKey], *, older_than: datetime, run_id: str
) -> CompactedBatch | None:
    """Compact one group; None where something happened to it meanwhile, so that it waits for another time."""
    contents = contents_of(ledger, keys, older_than=iso_utc(older_than))
    if contents is None:
        return None
    target = reserve_batch(ledger)
    try:
        sealed = _seal(store, spec, contents, target=target, run_id=run_id)
    except ClipPipelineError:
        discard_batch(store, target)
        raise
    # Where this fails nobody knows whether it was done: then the files stay, for the sweep to ask the ledger.
    if not swap_batches(ledger, contents, target=target, sealed=sealed, run_id=run_id):
        discard_batch(store, target)
        return None
    made = CompactedBatch(target, tuple(keys), len(contents.embedded), len(contents.quarantined))
    logger.info("batches compacted", extra={"batch": str(target), "batches": len(keys), "images": made.images})
    return made


def _seal(store: Store, spec: EncoderSpec, contents: BatchContents, *, target: BatchKey, run_id: str) -> SealedAs:
    rows = [*contents.embedded, *(entry.row for entry in contents.quarantined)]
    manifest = write_manifest(store, target, rows)
    if not rows:
        return SealedAs(manifest.digest, None)
    seal = compact_embeddings(
        store, spec, manifest, batch_of=contents.batch_of, digests=contents.digests, quarantined=contents.quarantined,
        run_id=run_id,
    )  # fmt: skip
    return SealedAs(manifest.digest, seal.digest)
