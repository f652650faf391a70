"""The one set of partitions, and what every asset made batch by batch has in common."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.compaction import successor_of
from clip_pipeline.ledger.database import Ledger

image_batches = dg.DynamicPartitionsDefinition(name="image_batches")
"""A batch of images is a partition, keyed `b0000001` upwards in the order of planning."""

MAX_BATCHES_PER_RUN = 20


def batch_asset(**options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dagster.asset` for an asset made batch by batch, up to `MAX_BATCHES_PER_RUN` contiguous ones in one run.

    The function logs one materialization for each batch as it is done, so that done batches stay done when the run
    dies; hence no output of its own.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        with warnings.catch_warnings():
            # The one beta parameter in use; without it a backfill pays the start of a run for every batch.
            warnings.simplefilter("ignore", dg.BetaWarning)
            policy = dg.BackfillPolicy.multi_run(max_partitions_per_run=MAX_BATCHES_PER_RUN)
            asset = dg.asset(
                partitions_def=image_batches,
                backfill_policy=policy,
                output_required=False,
                owners=["team:clip-pipeline"],
                **options,
            )
            return asset(function)

    return decorate


def partitions_to_make(context: dg.AssetExecutionContext, ledger: Ledger) -> Iterator[str]:
    """The partitions of this run, each at its turn, but those that were compacted since the run was requested."""
    for partition_key in context.partition_keys:
        successor = successor_of(ledger, BatchKey.parse(partition_key))
        if successor is None:
            yield partition_key
        else:
            context.log.warning("%s was compacted into %s; materialize that one instead", partition_key, successor)
