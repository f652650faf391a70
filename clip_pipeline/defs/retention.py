"""Retention: uploads and results of the analysis service older than the settings allow are removed, hourly."""

from datetime import UTC, datetime, timedelta
from functools import partial

import dagster as dg

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.store import Store
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.ledger.analysis_requests import delete_analysis, expired_analyses, forget_upload
from clip_pipeline.ledger.database import Ledger, iso_utc

EXPIRE_JOB = "expire_analyses"
AT_ONCE = 500


@dg.op(description="Delete requests that ended long ago, and the uploads that only they needed.")
def expire(context: dg.OpExecutionContext, pipeline: PipelineResource) -> None:
    """Reports how many requests and uploads went."""
    keep_days = pipeline.settings().analysis_keep_days
    requests, uploads = expire_analyses(
        pipeline.ledger(), pipeline.store(), older_than=datetime.now(UTC) - timedelta(days=keep_days)
    )
    context.add_output_metadata({"requests": requests, "uploads": uploads, "keep_days": keep_days})


@dg.job(name=EXPIRE_JOB, description="Remove uploads and results that are older than the settings allow.")
def expire_job() -> None:
    """One step; a kill leaves the rest for the next hour."""
    expire()


expire_hourly = dg.ScheduleDefinition(
    name="expire_analyses_hourly",
    job=expire_job,
    cron_schedule="17 * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)


def expire_analyses(ledger: Ledger, store: Store, *, older_than: datetime) -> tuple[int, int]:
    """Delete the requests that ended before a moment; returns how many requests and how many uploads are gone."""
    requests = uploads = 0
    while expired := expired_analyses(ledger, iso_utc(older_than), most=AT_ONCE):
        for analysis in expired:
            try:
                delete_analysis(ledger, analysis.request_id)
            except NotFoundError:  # deleted on request meanwhile
                continue
            requests += 1
            remove = partial(store.forget_upload_files, analysis.sha256)
            uploads += forget_upload(ledger, analysis.sha256, remove=remove)
    return requests, uploads
