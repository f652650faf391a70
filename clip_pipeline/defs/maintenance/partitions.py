"""Dagster's partitions follow the ledger's batches: compacted ones go, and what is made is shown as made.

Decided from what is, not from what a run just did: a kill between the ledger and Dagster is made good by the next run,
and so is a Dagster that knows nothing, as after the restoring of a backup.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

import dagster as dg

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs.partitions import image_batches
from clip_pipeline.defs.sensors.submissions import add_partitions
from clip_pipeline.defs.work import UNFINISHED
from clip_pipeline.ledger.compaction import RetiredBatch, all_retired
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.planning import batch_keys
from clip_pipeline.ledger.seals import RecordedBatch, recently_changed, recorded_batches

MANIFESTS, EMBEDDINGS = dg.AssetKey("image_manifest"), dg.AssetKey("image_embeddings")
MOST_EVENTS = 1_000
"""Of one run; an event takes 5 to 25 ms."""
PARTITION_TAG, RANGE_START_TAG, RANGE_END_TAG = (
    "dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Aligned:
    """What Dagster was told. deleted: partitions; shown: materializations that it lacked."""

    deleted: int
    shown: int


def busy_batches(instance: dg.DagsterInstance) -> Set[BatchKey]:
    """The batches that a run waits or works for."""
    found: set[BatchKey] = set()
    for run in instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED))):
        first, last = run.tags.get(RANGE_START_TAG), run.tags.get(RANGE_END_TAG)
        if first and last:
            found |= {BatchKey(n) for n in range(BatchKey.parse(first).number, BatchKey.parse(last).number + 1)}
        elif key := run.tags.get(PARTITION_TAG):
            found.add(BatchKey.parse(key))
    return found


def align_partitions(context: dg.OpExecutionContext, ledger: Ledger, *, settled_before: str) -> Aligned:
    """Delete the partitions of compacted batches, add those of batches, show what the ledger has and Dagster not.

    settled_before: what changed since, in a batch that is not a compacted one, is for the run that did it to show.
    """
    instance = context.instance
    retired = all_retired(ledger)
    deleted = _delete_partitions(instance, retired)
    add_partitions(instance, batch_keys(ledger))
    compacted_from = sources_of(retired)
    fresh = recently_changed(ledger, since=settled_before) - set(compacted_from)
    recorded = [batch for batch in recorded_batches(ledger) if batch.key not in fresh]
    events = list(islice(_missing_events(instance, recorded, compacted_from), MOST_EVENTS))
    for event in events:
        context.log_event(event)
    return Aligned(deleted, len(events))


def sources_of(retired: Sequence[RetiredBatch]) -> Mapping[BatchKey, list[BatchKey]]:
    """For each batch that others were compacted into, which those were."""
    found: dict[BatchKey, list[BatchKey]] = {}
    for batch in retired:
        found.setdefault(batch.compacted_into, []).append(batch.key)
    return found


def _delete_partitions(instance: dg.DagsterInstance, retired: Sequence[RetiredBatch]) -> int:
    name = str(image_batches.name)
    gone = {str(batch.key) for batch in retired} & set(instance.get_dynamic_partitions(name))
    for key in sorted(gone):
        instance.delete_dynamic_partition(name, key)
    return len(gone)


def _missing_events(
    instance: dg.DagsterInstance, recorded: Sequence[RecordedBatch], compacted_from: Mapping[BatchKey, list[BatchKey]]
) -> Iterator[dg.AssetMaterialization]:
    """The materializations that Dagster lacks of what the ledger has, in the order of the batches."""
    listed = instance.get_materialized_partitions(MANIFESTS)
    embedded = instance.get_materialized_partitions(EMBEDDINGS)
    for batch in recorded:
        key = str(batch.key)
        metadata = {"images": batch.images, **_origin(compacted_from.get(batch.key))}
        if key not in listed:
            yield _event(MANIFESTS, key, digest=batch.manifest_digest, metadata=metadata)
        if batch.embeddings_digest is not None and key not in embedded:
            yield _event(EMBEDDINGS, key, digest=batch.embeddings_digest, metadata=metadata)


def _event(asset: dg.AssetKey, key: str, *, digest: str, metadata: Mapping[str, Any]) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        asset, partition=key, metadata={**metadata, "digest": digest}, tags={"dagster/data_version": digest[:32]}
    )


def _origin(sources: Sequence[BatchKey] | None) -> dict[str, Any]:
    if not sources:
        return {"shown_by_maintenance": True}
    return {"compacted_from": [str(key) for key in sources], "batches": len(sources)}
