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
from clip_pipeline.ledger.publishing import recorded_release
from clip_pipeline.ledger.registration import Registration
from clip_pipeline.ledger.whereabouts import Whereabouts
from clip_pipeline.serving.cancellation import CanceledJob
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
        "index_size_mb": round(release_bytes(store, spec, release) / 1e6, 3) if spec and release else 0.0,
        "index_release": release_name(release.number) if release else None,
        "fingerprint": spec.fingerprint if spec else None,
    }


def status_document(ledger: Ledger, orchestrator: Orchestrator, job_id: str) -> Document:
    """`GET /api/v1/index/status/{job_id}`: one job; without runs where Dagster does not answer.

    Raises:
        NotFoundError: no job has this id.
    """
    counts = job_counts(ledger, job_id)
    return job_document(ledger, orchestrator, counts, runs=_runs_of(orchestrator, [job_id])[job_id])


def job_document(ledger: Ledger, orchestrator: Orchestrator, counts: JobCounts, *, runs: Sequence[RunInfo]) -> Document:
    """The status document of a job whose counts and runs are known; asks the orchestrator for addresses only."""
    now = time.time()
    status = job_status(counts, runs, now=now)
    started = started_at(counts, runs)
    return {
        "job_id": counts.job_id,
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
        "failed": [asdict(file) for file in failed_of_job(ledger, counts.job_id)] if counts.failed else [],
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
    return {
        "query": query.echo() | wanted.echo(),
        "index_release": None if answer.release is None else release_name(answer.release),
        "model_name": answer.model_name,
        "took_ms": round(took_ms, 1),
        "results": [_result(rank, hit) for rank, hit in enumerate(answer.hits, start=1)],
    }


def is_queued(registration: Registration) -> bool:
    """True where a new job has something to wait for, if only for what another job has under way."""
    return bool(registration.new_images_count or registration.pending_count)


def submission_document(registration: Registration) -> Document:
    """`POST /api/v1/index/add-images`: a job as it was opened."""
    return {
        "job_id": registration.job_id,
        "status": JobStatus.QUEUED if is_queued(registration) else JobStatus.COMPLETED,
        "images_count": registration.images_count,
        "new_images_count": registration.new_images_count,
        "already_indexed_count": registration.already_indexed_count,
        "message": _submission_message(registration),
    }


def canceled_document(job: CanceledJob) -> Document:
    """`DELETE /api/v1/index/jobs/{job_id}`: what the cancellation took out of work."""
    withdrawn, ended = job.cancellation.files, len(job.terminated)
    return {
        "job_id": job.cancellation.job_id,
        "status": JobStatus.CANCELED,
        "canceled_at": job.cancellation.canceled_at,
        "withdrawn_images": withdrawn,
        "terminated_runs": list(job.terminated),
        "left_runs": list(job.left_running),
        "warning": job.fault and f"runs may go on, and do no harm; cancel again to end them: {job.fault}",
        "message": f"Canceled; {_plural(withdrawn, 'image')} taken out of the queue, {_plural(ended, 'run')} ended",
    }


def whereabouts_document(file: Whereabouts, ledger: Ledger, store: Store) -> Document:
    """`GET /api/v1/index/images`: where one file stands and why."""
    spec = pinned_encoder(store)
    release = recorded_release(ledger, spec.key) if spec is not None and file.in_release else None
    return {
        "path": file.path,
        "state": file.state,
        "reason": file.reason,
        "batch": None if file.batch is None else str(file.batch),
        "run_id": file.run_id,
        "image_id": file.image_id,
        "sha256": file.sha256,
        "format": file.format,
        "width": file.width,
        "height": file.height,
        "size_bytes": file.size_bytes,
        "updated_at": file.updated_at,
        "indexed_at": file.indexed_at,
        "index_release": None if release is None else release_name(release),
        "standing_path": file.stands_for_it,
        "duplicates": list(file.duplicates),
        "job_ids": list(file.job_ids),
    }


def release_name(number: int) -> str:
    """A release as documents name it: the number, written as its folder is."""
    return f"{number:07d}"


def _submission_message(registration: Registration) -> str:
    if registration.new_images_count:
        return f"Queued {_plural(registration.new_images_count, 'new image')} for indexing"
    if registration.pending_count:
        return f"No new images; {_plural(registration.pending_count, 'image')} still under way for other jobs"
    return "All images are indexed already" if registration.images_count else "There is no image to index"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _result(rank: int, hit: ScoredHit) -> Document:
    labels = [{"label": one.label, "confidence": round(one.confidence, 4)} for one in hit.labels]
    return {"rank": rank, "score": round(hit.score, 6)} | asdict(hit.image) | {"labels": labels}


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


def release_bytes(store: Store, spec: EncoderSpec, release: Release) -> int:
    """The size of a release on disk; 0 for one that was pruned."""
    files = store.release_dir(spec.key, release.number)
    try:
        return sum(path.stat().st_size for path in files.iterdir())
    except FileNotFoundError:  # pruned meanwhile
        return 0
