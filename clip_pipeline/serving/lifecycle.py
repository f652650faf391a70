"""Where a job stands: the ledger's counts and Dagster's runs put together, as pure functions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from clip_pipeline.ledger.jobs import JobCounts
from clip_pipeline.serving.orchestrator import RunInfo

ENDED_RUNS = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
WAITING_RUNS = frozenset({"QUEUED", "NOT_STARTED"})
QUIET_S = 60.0
"""A sensor asks for further work of a job within seconds; after this long nothing follows a canceled run."""


class JobStatus(StrEnum):
    """The five words of the wire contract."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


def job_status(counts: JobCounts, runs: Sequence[RunInfo], *, now: float) -> JobStatus:
    """The status of one job from its counts and the runs that serve it; `now` in Unix seconds.

    A failed run alone decides nothing: the sensors ask for its work again, after a pause. Final is only what the
    ledger says, and runs that a person canceled in the Dagster UI, which nobody asks for again.
    """
    if counts.canceled_at is not None:
        return JobStatus.CANCELED
    if counts.completed_at is not None:
        return JobStatus.COMPLETED
    active = [run for run in runs if run.status not in ENDED_RUNS]
    if not active and counts.error is not None:
        return JobStatus.FAILED
    if not active and _was_canceled(runs, now=now):
        return JobStatus.CANCELED
    begun = any(run.status not in WAITING_RUNS for run in runs)
    if begun or counts.processed > 0 or counts.started_at is not None:
        return JobStatus.RUNNING
    return JobStatus.QUEUED


def started_at(counts: JobCounts, runs: Sequence[RunInfo]) -> str | None:
    """When work on the job began, ISO 8601: its first run's start, or what the ledger noted."""
    starts = [iso_time(run.started_at) for run in runs if run.started_at is not None]
    return min([*starts, *([counts.started_at] if counts.started_at else [])], default=None)


def eta_seconds(counts: JobCounts, *, started: str | None, now: float) -> float | None:
    """Seconds until every image is processed at the mean rate so far; None while there is no rate."""
    if started is None or counts.processed == 0:
        return None
    elapsed_s = now - datetime.fromisoformat(started).timestamp()
    return round(max(0.0, elapsed_s) * (counts.total - counts.processed) / counts.processed, 1)


def iso_time(seconds: float) -> str:
    """Unix seconds as UTC, ISO 8601 with milliseconds, ending in Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _was_canceled(runs: Sequence[RunInfo], *, now: float) -> bool:
    """True where the last run of some piece of work was canceled, that of every other succeeded, and all is quiet."""
    latest: dict[str, RunInfo] = {}
    for run in sorted(runs, key=lambda run: run.created_at):
        latest |= dict.fromkeys(run.work.split(), run)
    endings = {run.status for run in latest.values()}
    quiet = all(now - (run.ended_at or run.created_at) >= QUIET_S for run in runs)
    return quiet and "CANCELED" in endings and endings <= {"CANCELED", "SUCCESS"}
