"""What the pages about jobs show, read from the ledger and Dagster. Blocks, so it belongs in a thread. No web here."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from clip_pipeline.core.errors import StackError
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.job_history import JOBS_SHOWN, ClosedJobLine, JobPosition, closed_jobs, failed_after
from clip_pipeline.ledger.jobs import FAILED_SHOWN, FailedFile, JobCounts, job_counts, open_job_ids
from clip_pipeline.serving.lifecycle import JobStatus, eta_seconds, iso_time, job_status, started_at
from clip_pipeline.serving.orchestrator import Orchestrator, RunInfo

OPEN_SHOWN = 50
SOURCES = {"api": "the HTTP service", "cli": "the command line", "watch": "a watched folder"}


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as a page shows it. rate: images per second so far; both rate and eta_s only while there is a pace."""

    counts: JobCounts
    status: JobStatus
    started_at: str | None
    eta_s: float | None
    rate: float | None

    @property
    def is_open(self) -> bool:
        """True where it may still be canceled."""
        return self.counts.completed_at is None and self.counts.canceled_at is None

    @property
    def is_moving(self) -> bool:
        """True where the page is worth following."""
        return self.status in (JobStatus.QUEUED, JobStatus.RUNNING)

    @property
    def ended_at(self) -> str | None:
        """When it was completed or canceled."""
        return self.counts.canceled_at or self.counts.completed_at

    @property
    def took_s(self) -> float | None:
        """Seconds from the first work on it to its end."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, _seconds(self.ended_at) - _seconds(self.started_at))

    @property
    def source(self) -> str:
        """Where it came from, in words."""
        return SOURCES.get(self.counts.source, self.counts.source)


@dataclass(frozen=True, slots=True)
class RunView:
    """One Dagster run. took_s: to its end, or until now."""

    run_id: str
    status: str
    job_name: str
    work: str
    started_at: str | None
    took_s: float | None
    url: str


@dataclass(frozen=True, slots=True)
class JobPage:
    """Everything on the page of one job. failed_next: the path after which the next page of failures begins; fault:
    why Dagster could not be asked."""

    job: JobView
    runs: tuple[RunView, ...]
    failed: tuple[FailedFile, ...]
    failed_next: str | None
    fault: str | None


@dataclass(frozen=True, slots=True)
class JobsPage:
    """Everything on the page of all jobs. open: the oldest, oldest first; has_more_open: there are later ones;
    next_page: where the next page of closed ones begins."""

    open: tuple[JobView, ...]
    has_more_open: bool
    closed: tuple[ClosedJobLine, ...]
    next_page: JobPosition | None
    fault: str | None


def job_page(ledger: Ledger, orchestrator: Orchestrator, job_id: str, *, failed_path: str = "") -> JobPage:
    """The page of one job, its failed images from the one after `failed_path` on.

    Raises:
        NotFoundError: no job has this id.
    """
    counts = job_counts(ledger, job_id)
    runs, fault = _runs_or_fault(orchestrator, [job_id])
    now = time.time()
    failed = failed_after(ledger, job_id, path=failed_path, most=FAILED_SHOWN + 1)
    shown = failed[:FAILED_SHOWN]
    return JobPage(
        job=job_view(counts, runs[job_id], now=now),
        runs=tuple(_run_view(run, orchestrator, now=now) for run in runs[job_id]),
        failed=tuple(shown),
        failed_next=shown[-1].path if len(failed) > FAILED_SHOWN else None,
        fault=fault,
    )


def jobs_page(ledger: Ledger, orchestrator: Orchestrator, *, after: JobPosition | None = None) -> JobsPage:
    """The page of all jobs, the closed ones from the one after `after` on; the open ones on the first page only."""
    open_ids = open_job_ids(ledger, most=OPEN_SHOWN + 1) if after is None else []
    job_ids = open_ids[:OPEN_SHOWN]
    counted = [job_counts(ledger, job_id) for job_id in job_ids]
    runs, fault = _runs_or_fault(orchestrator, job_ids)
    now = time.time()
    closed = closed_jobs(ledger, after=after, most=JOBS_SHOWN + 1)
    shown = closed[:JOBS_SHOWN]
    last = shown[-1] if len(closed) > JOBS_SHOWN else None
    return JobsPage(
        open=tuple(job_view(counts, runs[counts.job_id], now=now) for counts in counted),
        has_more_open=len(open_ids) > OPEN_SHOWN,
        closed=tuple(shown),
        next_page=None if last is None else JobPosition(last.created_at, last.job_id),
        fault=fault,
    )


def job_view(counts: JobCounts, runs: Sequence[RunInfo], *, now: float) -> JobView:
    """One job from its counts and the runs that serve it; `now` in Unix seconds."""
    status, started = job_status(counts, runs, now=now), started_at(counts, runs)
    if status is not JobStatus.RUNNING or started is None or not counts.processed:
        return JobView(counts, status, started, None, None)
    elapsed_s = now - _seconds(started)
    rate = counts.processed / elapsed_s if elapsed_s > 0 else None
    # With nothing left to process the rest is publishing, about which the pace so far says nothing.
    eta_s = eta_seconds(counts, started=started, now=now) if counts.processed < counts.total else None
    return JobView(counts, status, started, eta_s, rate)


def _run_view(run: RunInfo, orchestrator: Orchestrator, *, now: float) -> RunView:
    took_s = None if run.started_at is None else max(0.0, (run.ended_at or now) - run.started_at)
    work = run.work if run.work != run.run_id else ""
    started = None if run.started_at is None else iso_time(run.started_at)
    return RunView(run.run_id, run.status, run.job_name, work, started, took_s, orchestrator.run_url(run.run_id))


def _runs_or_fault(
    orchestrator: Orchestrator, job_ids: Sequence[str]
) -> tuple[Mapping[str, Sequence[RunInfo]], str | None]:
    """The runs of each job; none, and why, where Dagster does not answer: the ledger still counts."""
    try:
        return orchestrator.runs_of_jobs(job_ids), None
    except StackError as error:
        return dict.fromkeys(job_ids, ()), str(error)


def _seconds(iso: str) -> float:
    return datetime.fromisoformat(iso).timestamp()
