"""Work and its runs: which runs were made for a piece of work, and the request that makes the next one.

A piece of work has a name (`inspect:b0000001`, `embed:b0000001:<manifest run>`, `merge:<state>`), carried by its
runs as a tag, so that every run made for it, by sensor or by retry, is found. A run that several batches share
carries the names of all, and each of them once more with its batch in the key of the tag.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from clip_pipeline.defs.attempts import PastRun

WORK_TAG = "clip/work"
PACKED_TAG_PREFIX = "clip/packed."
JOB_TAG_PREFIX = "clip/job/"
FIRST_BATCH_TAG, LAST_BATCH_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PRIORITY_TAG = "dagster/priority"
WILL_RETRY_TAG = "dagster/will_retry"
RETRIED_BY_TAG = "dagster/auto_retry_run_id"
RETRY_NUMBER_TAG = "dagster/retry_number"
FIRST_TRY_TAG = "dagster/root_run_id"

UNFINISHED = (
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work: its name, the partition it concerns, its urgency, and the jobs it serves."""

    name: str
    partition_key: str | None
    priority: int
    job_ids: Sequence[str]


def request_run(work: Work, *, attempt: int) -> dg.RunRequest:
    """The request of one attempt; the same attempt asked for twice is one run."""
    tags = {WORK_TAG: work.name, PRIORITY_TAG: str(work.priority)} | job_tags(work.job_ids)
    return dg.RunRequest(run_key=f"{work.name}#{attempt}", partition_key=work.partition_key, tags=tags)


def request_pack(works: Sequence[Work], *, attempt: int) -> dg.RunRequest:
    """The request of one run for batches that are neighbours; for a single one that of `request_run`."""
    first, last = works[0], works[-1]
    if first is last:
        return request_run(first, attempt=attempt)
    tags = {
        WORK_TAG: " ".join(work.name for work in works),
        PRIORITY_TAG: str(max(work.priority for work in works)),
        FIRST_BATCH_TAG: str(first.partition_key),
        LAST_BATCH_TAG: str(last.partition_key),
    }
    tags |= {f"{PACKED_TAG_PREFIX}{work.partition_key}": work.name for work in works}
    for work in works:
        tags |= job_tags(work.job_ids)
    return dg.RunRequest(run_key=f"{first.name}..{last.partition_key}#{attempt}", tags=tags)


def job_tags(job_ids: Sequence[str]) -> dict[str, str]:
    """The tags that name the jobs a run serves: `clip/job/<job_id>` = 1."""
    return {f"{JOB_TAG_PREFIX}{job_id}": "1" for job_id in job_ids}


def past_runs(instance: dg.DagsterInstance, name: str, *, partition_key: str | None = None) -> list[PastRun]:
    """The runs that were made for the work of this name, newest first.

    partition_key: that of the work where it concerns a batch, to find the runs that it shared with others too.
    """
    filters = [{WORK_TAG: name}]
    if partition_key is not None:
        filters.append({f"{PACKED_TAG_PREFIX}{partition_key}": name})
    records = [found for tags in filters for found in instance.get_run_records(dg.RunsFilter(tags=tags), limit=100)]
    return [_past_run(record) for record in sorted(records, key=lambda record: record.storage_id, reverse=True)]


def has_unfinished_run(instance: dg.DagsterInstance, job_name: str) -> bool:
    """True while any run of this Dagster job waits or works."""
    return bool(instance.get_run_ids(dg.RunsFilter(job_name=job_name, statuses=list(UNFINISHED)), limit=1))


def earlier_tries(instance: dg.DagsterInstance, retry: dg.DagsterRun) -> set[str]:
    """Ids of the run that this one is a retry of, and of its other retries."""
    first = retry.tags.get(FIRST_TRY_TAG)
    return {first, *instance.get_run_ids(dg.RunsFilter(tags={FIRST_TRY_TAG: first}))} if first else set()


def unfinished_priorities(instance: dg.DagsterInstance, job_name: str) -> list[int]:
    """The priority of each run of this Dagster job that waits or works."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=list(UNFINISHED)))
    return [int(run.tags.get(PRIORITY_TAG, "0")) for run in runs]


def failure_message(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed, in one line: the error of its first failed step, else its last engine message."""
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        data = entry.dagster_event.event_specific_data if entry.dagster_event else None
        error = getattr(data, "error", None)
        while error is not None and error.cause is not None:
            error = error.cause
        if error is not None:
            return f"run {run_id}: {' '.join(error.message.split())[:500]}"
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        if entry.dagster_event is not None and entry.dagster_event.message:
            return f"run {run_id}: {' '.join(entry.dagster_event.message.split())[:500]}"
    return f"run {run_id} failed"


def _past_run(record: dg.RunRecord) -> PastRun:
    run = record.dagster_run
    failed = run.status == dg.DagsterRunStatus.FAILURE
    awaits_retry = failed and run.tags.get(WILL_RETRY_TAG) == "true" and RETRIED_BY_TAG not in run.tags
    return PastRun(
        run.run_id,
        succeeded=run.status == dg.DagsterRunStatus.SUCCESS,
        canceled=run.status == dg.DagsterRunStatus.CANCELED,
        ended_at=_ended_at(record) if run.is_finished else None,
        is_retry=RETRY_NUMBER_TAG in run.tags,
        awaits_retry=awaits_retry,
    )


def _ended_at(record: dg.RunRecord) -> float:
    return record.end_time if record.end_time is not None else record.update_timestamp.timestamp()
