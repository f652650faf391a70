"""The scheduled maintenance jobs: one op each over one plain function, which a kill at any moment leaves repeatable."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from clip_pipeline.defs.assets.merged_index import required_encoder
from clip_pipeline.defs.maintenance.compaction import Compaction, compact_batches
from clip_pipeline.defs.maintenance.orphans import Sweep, sweep_orphans
from clip_pipeline.defs.maintenance.partitions import align_partitions, busy_batches
from clip_pipeline.defs.maintenance.segments import compact_segments, worn_segments
from clip_pipeline.defs.metadata import table
from clip_pipeline.defs.release_metadata import describe_merge
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.ledger.database import iso_utc
from clip_pipeline.ledger.upkeep import keep_up
from clip_pipeline.settings import Settings

POOL = "maintenance"
TABLE_ROWS = 50


@dg.op(pool=POOL, description="Make one large batch of many small old ones; nothing is embedded anew.")
def compact_small_batches(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Reports which batches became which, then makes Dagster's partitions those of the ledger."""
    settings, ledger = pipeline.settings(), pipeline.ledger()
    older_than = untouched_since(settings)
    done = compact_batches(
        ledger, pipeline.store(), batch_size=settings.batch_size, older_than=older_than, run_id=context.run.run_id,
        busy=busy_batches(context.instance),
    )  # fmt: skip
    aligned = align_partitions(context, ledger, settled_before=iso_utc(older_than))
    context.add_output_metadata(
        describe_compaction(done) | {"partitions_deleted": aligned.deleted, "materializations_shown": aligned.shown}
    )


@dg.op(pool="index", description="Build worn and many small segments of the published release anew, as one.")
def compact_index_segments(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Reports the release that was published, or that none was worth it."""
    store = pipeline.store()
    _, worn = worn_segments(store)
    result = compact_segments(pipeline.ledger(), store, run_id=context.run.run_id)
    if result is None:
        context.add_output_metadata({"worn_segments": len(worn), "published": False})
        return
    folder = store.release_dir(required_encoder(store).key, result.release.number)
    context.add_output_metadata({"worn_segments": len(worn)} | describe_merge(result, folder=folder))


@dg.op(
    pool=POOL, description="Remove from the store what nobody owns: leftovers of kills, of requests and batches gone."
)
def sweep(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Reports how much of what kind was removed."""
    swept = sweep_orphans(pipeline.ledger(), pipeline.store(), older_than=untouched_since(pipeline.settings()))
    context.add_output_metadata(describe_sweep(swept))


@dg.op(pool=POOL, description="Refresh the ledger's statistics and give free space back.")
def tend(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Reports the size of the database, and whether it was written anew."""
    done = keep_up(pipeline.ledger())
    context.add_output_metadata(
        {
            "database": done.backend, "megabytes": round(done.database_bytes / 1e6, 3),
            "free_megabytes": round(done.free_bytes / 1e6, 3), "vacuumed": done.vacuumed, "vacuum_is_due": done.is_due,
        }
    )  # fmt: skip
    if done.is_due:
        context.log.warning("the ledger is large and a quarter of it free: `clip-pipeline maintain vacuum` when idle")


@dg.job(name="compact_batches", description="Compact small old batches, and clear away those compacted before.")
def compact_batches_job() -> None:
    """One step; a kill leaves whole groups done, the others for the next time."""
    compact_small_batches()


@dg.job(name="compact_index", description="Compact the segments of the published release.")
def compact_index_job() -> None:
    """One step; a kill leaves the published release as it is."""
    compact_index_segments()


@dg.job(name="sweep_orphans", description="Remove orphans from the store.")
def sweep_orphans_job() -> None:
    """One step; a kill leaves the rest for the next time."""
    sweep()


@dg.job(name="tend_ledger", description="Keep the ledger's database in shape.")
def tend_ledger_job() -> None:
    """One step; the database itself makes it all or nothing."""
    tend()


def _scheduled(job: dg.JobDefinition, cron: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule", job=job, cron_schedule=cron, default_status=dg.DefaultScheduleStatus.RUNNING
    )


MAINTENANCE_JOBS = (compact_batches_job, compact_index_job, sweep_orphans_job, tend_ledger_job)
MAINTENANCE_SCHEDULES = (
    _scheduled(compact_batches_job, "27 * * * *"),
    _scheduled(compact_index_job, "47 * * * *"),
    _scheduled(sweep_orphans_job, "7 3 * * *"),
    _scheduled(tend_ledger_job, "37 3 * * *"),
)


def untouched_since(settings: Settings) -> datetime:
    """The moment before which a thing was last touched for maintenance to touch it."""
    return datetime.now(UTC) - timedelta(hours=settings.maintenance_after_hours)


def describe_compaction(done: Compaction) -> dict[str, Any]:
    """Counts, and which batches became which."""
    return {
        "batches_made": len(done.compacted),
        "batches_compacted": sum(len(batch.compacted_from) for batch in done.compacted),
        "images": sum(batch.images for batch in done.compacted),
        "groups_postponed": done.postponed,
        "batches_cleared": len(done.removed),
        "compacted": table(
            [
                {
                    "batch": str(b.key), "from": str(b.compacted_from[0]), "to": str(b.compacted_from[-1]),
                    "batches": len(b.compacted_from), "images": b.images, "quarantined": b.quarantined,
                }
                for b in done.compacted[:TABLE_ROWS]
            ]
        ),
    }  # fmt: skip


def describe_sweep(swept: Sweep) -> dict[str, Any]:
    """Counts by kind, bytes, and the first paths."""
    shown = [{"kind": o.kind, "bytes": o.size_bytes, "path": str(o.path)} for o in swept.orphans[:TABLE_ROWS]]
    return {
        "orphans": len(swept.orphans),
        "megabytes": round(swept.size_bytes / 1e6, 3),
        **swept.counts,
        "removed": table(shown),
    }
