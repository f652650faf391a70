"""The JSON documents of the wire contract, built from the ledger, the store and Dagster. No web framework here.

The routes answer with them and the command line's `--json` prints them, so that both are the same. Paths are in the
text form of `core.paths`.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import NotFoundError, StackError
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.release import Release, read_current_release
from clip_pipeline.core.store import Store
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import JobCounts, failed_of_job, indexed_images, job_counts, open_jobs, recent_jobs
from clip_pipeline.ledger.lookup import failures_by_code
from clip_pipeline.serving.lifecycle import JobStatus, eta_seconds, iso_time, job_status, started_at
from clip_pipeline.serving.orchestrator import Orchestrator, RunInfo
from clip_pipeline.serving.queries import Query, ScoredHit, SearchAnswer, Wanted

Document: TypeAlias = dict[str, Any]

OPEN_JOBS_SHOWN = 100


def stats_document(ledger: Ledger, store: Store) -> Document:
    """`GET /api/v1/index/stats`: what the index holds; zeros and nulls before there is one."""
    spec = pinned_encoder(store)
    release = _current_release(store, spec)
    return {
        "model_name": spec.model_name if spec else None,
        "embedding_dim": spec.dim if spec else None,
        "total_images": indexed_images(ledger),
        "num_failed": sum(failures_by_code(ledger).values()),
        "last_updated": release.created_at if release else None,
        "index_size_mb": round(_release_bytes(store, spec, release) / 1e6, 3) if spec and release else 0.0,
        "index_release": release_name(release.number) if release else None,
    }


def status_document(ledger: Ledger, orchestrator: Orchestrator, job_id: str) -> Document:
    """`GET /api/v1/index/status/{job_id}`: one job; without runs where Dagster does not answer.

    Raises:
        NotFoundError: no job has this id.
    """
    counts, now = job_counts(ledger, job_id), time.time()
    runs = _runs_of(orchestrator, [job_id])[job_id]
    status = job_status(counts, runs, now=now)
    started = started_at(counts, runs)
    return {
        "job_id": job_id,
        "status": status,
        "progress": {
            "total_images": counts.total,
            "processed_images": counts.processed,
            "failed_images": counts.failed,
            "percent_complete": counts.percent_complete,
        },
        "created_at": counts.created_at,
        "started_at": started,
        "completed_at": counts.completed_at,
        "error_message": counts.error if status is JobStatus.FAILED else None,
        "eta_seconds": eta_seconds(counts, started=started, now=now) if status is JobStatus.RUNNING else None,
        "runs": [_run_document(run, orchestrator) for run in runs],
        "failed": [asdict(file) for file in failed_of_job(ledger, job_id)],
    }


def overall_status_document(ledger: Ledger, store: Store, orchestrator: Orchestrator) -> Document:
    """`GET /api/v1/index/status`: the jobs that are open, oldest first, and the newest ones."""
    unfinished, recent = open_jobs(ledger), recent_jobs(ledger)
    # Asked about the jobs that are shown; of the others, should there be so many, the ledger alone decides.
    runs = _runs_of(orchestrator, [job.job_id for job in unfinished[:OPEN_JOBS_SHOWN]])
    now = time.time()
    statuses = {job.job_id: job_status(job, runs.get(job.job_id, []), now=now) for job in (*unfinished, *recent)}
    active = [job for job in unfinished if statuses[job.job_id] in (JobStatus.QUEUED, JobStatus.RUNNING)]
    spec, images = pinned_encoder(store), indexed_images(ledger)
    return {
        "total_indexed_images": images,
        "active_jobs": len(active),
        "active_job_details": [_job_line(job, statuses) for job in active[:OPEN_JOBS_SHOWN]],
        "recent_jobs": [_job_line(job, statuses) | {"images": job.images_count} for job in recent],
        "index_stats": {"model_name": spec.model_name if spec else None, "total_images": images},
    }


def search_document(answer: SearchAnswer, *, query: Query, wanted: Wanted, took_ms: float) -> Document:
    """`/api/v1/search`: the question repeated, who answered, and the results, best first."""
    limits = {"k": wanted.k} | ({} if wanted.min_score is None else {"min_score": wanted.min_score})
    return {
        "query": query.echo() | limits,
        "index_release": None if answer.release is None else release_name(answer.release),
        "model_name": answer.model_name,
        "took_ms": round(took_ms, 1),
        "results": [_result(rank, hit) for rank, hit in enumerate(answer.hits, start=1)],
    }


def release_name(number: int) -> str:
    """A release as documents name it: the number, written as its folder is."""
    return f"{number:07d}"


def _result(rank: int, hit: ScoredHit) -> Document:
    return {"rank": rank, "score": round(hit.score, 6)} | asdict(hit.image)


def _job_line(job: JobCounts, statuses: dict[str, JobStatus]) -> Document:
    return {"job_id": job.job_id, "status": statuses[job.job_id], "created_at": job.created_at}


def _run_document(run: RunInfo, orchestrator: Orchestrator) -> Document:
    return {
        "run_id": run.run_id,
        "status": run.status,
        "job_name": run.job_name,
        "started_at": None if run.started_at is None else iso_time(run.started_at),
        "ended_at": None if run.ended_at is None else iso_time(run.ended_at),
        "url": orchestrator.run_url(run.run_id),
    }


def _runs_of(orchestrator: Orchestrator, job_ids: Sequence[str]) -> dict[str, list[RunInfo]]:
    """The runs of each job; none where Dagster does not answer: `/health` says so, the ledger still counts."""
    try:
        return orchestrator.runs_of_jobs(job_ids)
    except StackError:
        return {job_id: [] for job_id in job_ids}


def _current_release(store: Store, spec: EncoderSpec | None) -> Release | None:
    """The current release. Superseded and pruned between two reads, it is looked for once more."""
    if spec is None:
        return None
    try:
        return read_current_release(store, spec.key)
    except NotFoundError:
        return read_current_release(store, spec.key)


def _release_bytes(store: Store, spec: EncoderSpec, release: Release) -> int:
    files = store.release_dir(spec.key, release.number)
    try:
        return sum(path.stat().st_size for path in files.iterdir())
    except FileNotFoundError:  # pruned meanwhile
        return 0
