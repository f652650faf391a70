"""What each part of the system says of itself when the service is scraped. Each function blocks, and may raise."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.analysis_lookup import analysis_stats
from clip_pipeline.ledger.analysis_queue import waiting
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import open_jobs
from clip_pipeline.ledger.lookup import failures_by_code
from clip_pipeline.ledger.states import AnalysisState
from clip_pipeline.ledger.statistics import counts_by_state
from clip_pipeline.observability import metrics
from clip_pipeline.observability.metrics import Reading, by_label
from clip_pipeline.serving.documents import release_bytes
from clip_pipeline.serving.lifecycle import JobStatus, job_status
from clip_pipeline.serving.orchestrator import Orchestrator
from clip_pipeline.serving.push.hub import Hub
from clip_pipeline.serving.scrape import Read
from clip_pipeline.serving.services import Services


def parts_of(services: Services, hub: Hub) -> dict[str, Read]:
    """How to read each part, by its name."""
    ledger = services.ledger
    return {
        "files": lambda: file_readings(ledger),
        "failures": lambda: failure_readings(ledger),
        "jobs": lambda: job_readings(ledger),
        "index": lambda: index_readings(services),
        "analysis": lambda: analysis_readings(ledger),
        "push": lambda: [Reading(metrics.PUSH_LISTENERS, hub.listeners)],
        "dagster": lambda: dagster_readings(services.orchestrator),
    }


def file_readings(ledger: Ledger) -> Sequence[Reading]:
    """Files and images by state."""
    counts = counts_by_state(ledger)
    return [*by_label(metrics.LEDGER_FILES, counts.files), *by_label(metrics.LEDGER_IMAGES, counts.images)]


def failure_readings(ledger: Ledger) -> Sequence[Reading]:
    """Failed files by reason code, those of which there are none included."""
    return by_label(metrics.FAILED_FILES, dict.fromkeys(ReasonCode, 0) | failures_by_code(ledger))


def job_readings(ledger: Ledger) -> Sequence[Reading]:
    """Open jobs by status. The ledger's word alone: a job whose first run has just begun may count as queued."""
    now = time.time()
    found = Counter(job_status(job, (), now=now) for job in open_jobs(ledger))
    statuses = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED)
    return by_label(metrics.OPEN_JOBS, {status: found[status] for status in statuses})


def index_readings(services: Services) -> Sequence[Reading]:
    """The release that searches use; nothing before there is one."""
    served = services.engine.served()
    reader = None if served is None else served.releases.reader
    if served is None or reader is None:
        return []
    release = reader.release
    return [
        Reading(metrics.INDEX_IMAGES, release.images),
        Reading(metrics.INDEX_RELEASE_NUMBER, release.number),
        Reading(metrics.INDEX_RELEASE_AGE_SECONDS, _age_s(release.created_at)),
        Reading(metrics.INDEX_RECALL_RATIO, release.recall),
        Reading(metrics.INDEX_SEGMENTS, len(release.segments)),
        Reading(metrics.INDEX_BYTES, release_bytes(services.store, served.spec, release)),
    ]


def analysis_readings(ledger: Ledger) -> Sequence[Reading]:
    """The analysis lane: requests by state, how long the first one has waited, how long they take."""
    stats, oldest = analysis_stats(ledger), waiting(ledger).oldest_submitted_at
    readings = by_label(metrics.ANALYSIS_REQUESTS, {
        AnalysisState.SUBMITTED: stats.submitted, AnalysisState.PROCESSING: stats.processing,
        AnalysisState.COMPLETED: stats.completed, AnalysisState.FAILED: stats.failed,
    })  # fmt: skip
    age_s = 0.0 if oldest is None else _age_s(oldest)
    readings.append(Reading(metrics.ANALYSIS_OLDEST_WAITING_SECONDS, age_s))
    if stats.mean_processing_time_ms is not None:
        readings.append(Reading(metrics.ANALYSIS_PROCESSING_SECONDS, stats.mean_processing_time_ms / 1000))
    return readings


def dagster_readings(orchestrator: Orchestrator) -> Sequence[Reading]:
    """Runs that have not ended, and the signs of life of the daemons."""
    pulse, now = orchestrator.pulse(), time.time()
    age_s = 0.0 if pulse.oldest_queued_at is None else max(0.0, now - pulse.oldest_queued_at)
    ages = {daemon: max(0.0, now - seen_at) for daemon, seen_at in pulse.heartbeats.items()}
    return [
        *by_label(metrics.DAGSTER_RUNS, pulse.runs),
        Reading(metrics.DAGSTER_OLDEST_QUEUED_SECONDS, age_s),
        *by_label(metrics.DAGSTER_HEARTBEAT_AGE_SECONDS, ages),
    ]


def _age_s(moment: str) -> float:
    return max(0.0, time.time() - datetime.fromisoformat(moment).timestamp())
