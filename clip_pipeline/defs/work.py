"""Work and its runs: which runs were made for a piece of work, and the request that makes the next one.

A piece of work has a name (`inspect:b0000001`, `embed:b0000001:<manifest run>`, `merge:<state>`), carried by its
runs as a tag, so that every run made for it, by sensor or by retry, is found with one query.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from clip_pipeline.defs.attempts import PastRun

WORK_TAG = "clip/work"
JOB_TAG_PREFIX = "clip/job/"
PRIORITY_TAG = "dagster/priority"
WILL_RETRY_TAG = "dagster/will_retry"
RETRIED_BY_TAG = "dagster/auto_retry_run_id"
RETRY_NUMBER_TAG = "dagster/retry_number"

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


def job_tags(job_ids: Sequence[str]) -> dict[str, str]:
    """The tags that name the jobs a run serves: `clip/job/<job_id>` = 1."""
    return {f"{JOB_TAG_PREFIX}{job_id}": "1" for job_id in job_ids}


def past_runs(instance: dg.DagsterInstance, name: str) -> list[PastRun]:
    """The runs that were made for the work of this name, newest first."""
    records = instance.get_run_records(dg.RunsFilter(tags={WORK_TAG: name}), limit=100)
    return [_past_run(record) for record in records]


def has_unfinished_run(instance: dg.DagsterInstance, job_name: str) -> bool:
    """True while any run of this Dagster job waits or works."""
    return bool(instance.get_run_ids(dg.RunsFilter(job_name=job_name, statuses=list(UNFINISHED)), limit=1))


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
