"""Asset `merged_index`: the published release, and the checks that speak of it."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from clip_pipeline import __version__
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.store import Store
from clip_pipeline.defs.metadata import png_image, table
from clip_pipeline.defs.release_metadata import describe_merge, recall_plot
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.index.plan import LiveImages
from clip_pipeline.index.publish import MergeResult, Provenance, merge_release
from clip_pipeline.index.verify import RECALL_FLOOR, verify_release
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.publishing import live_vectors, outstanding, record_release


@dg.asset(
    deps=[dg.AssetDep("image_embeddings", partition_mapping=dg.AllPartitionMapping())],
    group_name="search",
    kinds={"faiss"},
    owners=["team:clip-pipeline"],
    pool="index",
)
def merged_index(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult[Any]:
    """The published release: every sealed embedding of a live image, verified before it replaces the one before."""
    spec = required_encoder(pipeline.store())
    merged = merge(pipeline.ledger(), pipeline.store(), spec, run_id=context.run.run_id)
    return dg.MaterializeResult(
        metadata=describe_merge(merged, folder=pipeline.store().release_dir(spec.key, merged.release.number)),
        data_version=dg.DataVersion(f"{spec.key}/{merged.release.number}"),
    )


@dg.asset_check(asset=merged_index, description="Every file and image is in one state, and all totals balance.")
def ledger_balances(pipeline: PipelineResource) -> dg.AssetCheckResult:
    """Counts what must not exist in the ledger."""
    found = balance(pipeline.ledger())
    return dg.AssetCheckResult(
        passed=found.holds,
        metadata={
            "files": table([{"state": state, "files": count} for state, count in found.files.items()]),
            "faults": table([{"fault": name, "cases": count} for name, count in found.faults.items()]),
        },
    )


@dg.multi_asset_check(
    name="release_checks",
    specs=[
        dg.AssetCheckSpec("release_is_whole", asset=merged_index, description="Files, ids and vectors are as stated."),
        dg.AssetCheckSpec("recall_is_high", asset=merged_index, description=f"recall@10 is at least {RECALL_FLOOR}."),
    ],
)
def release_checks(pipeline: PipelineResource) -> Iterator[dg.AssetCheckResult]:
    """Digests, one live row an image, each stored vector finds its own image; recall against exact search."""
    report = verify_release(pipeline.store(), required_encoder(pipeline.store()))
    faults = [{"check": fault.check, "detail": fault.detail} for fault in report.faults]
    yield dg.AssetCheckResult(
        check_name="release_is_whole", passed=not report.faults, metadata={"faults": table(faults)}
    )
    at_10 = next((entry.recall for entry in report.recall if entry.k == 10), None)
    yield dg.AssetCheckResult(
        check_name="recall_is_high",
        passed=report.release.images == 0 or (at_10 is not None and at_10 >= RECALL_FLOOR),
        metadata={
            "recall_at_10": at_10 if at_10 is not None else "not measured",
            "queries": report.queries,
            "recall": png_image(recall_plot(report.recall), alt="recall@k against exact search"),
        },
    )


def merge(ledger: Ledger, store: Store, spec: EncoderSpec, *, run_id: str) -> MergeResult:
    """Publish what is outstanding and tell the ledger.

    What is outstanding is read before the embeddings are: whatever lands meanwhile stays outstanding. A release that
    was published by a run that died before it could tell is recorded here.
    """
    due = outstanding(ledger)
    ids, batch_numbers = live_vectors(ledger)
    provenance = Provenance(run_id, __version__, datetime.now(UTC))
    merged = merge_release(store, spec, live=LiveImages(ids, batch_numbers), provenance=provenance)
    held = {int(n) for n in set(batch_numbers.tolist())}
    emptied = {key: digest for key, digest in due.batches.items() if key.number not in held}
    record_release(
        ledger,
        spec.key,
        number=merged.release.number,
        live=merged.plan.content.image_ids,
        merged=dict(merged.plan.digests) | emptied,
        run_id=run_id,
    )
    return merged


def required_encoder(store: Store) -> EncoderSpec:
    """The pinned encoder. Raises ConfigurationError before one is pinned."""
    spec = pinned_encoder(store)
    if spec is None:
        raise ConfigurationError(f"no encoder is pinned in {store.root}; run `clip-pipeline init` first")
    return spec
