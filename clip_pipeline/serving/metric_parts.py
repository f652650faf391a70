"""What each part of the system says of itself when the service is scraped. Each function blocks, and may raise."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from clip_pipeline.core.errors import StackError
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.analysis_lookup import analysis_stats
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import open_jobs
from clip_pipeline.ledger.lookup import failures_by_code
from clip_pipeline.ledger.queues import closed_jobs_by_outcome, processed_by_batch, queues
from clip_pipeline.ledger.states import AnalysisState
from clip_pipeline.ledger.statistics import counts_by_state
from clip_pipeline.ledger.workers import WorkerState, list_workers
from clip_pipeline.observability import metrics
from clip_pipeline.observability.metrics import Reading, by_label
from clip_pipeline.serving.documents import release_bytes
from clip_pipeline.serving.lifecycle import JobStatus, job_status
from clip_pipeline.serving.orchestrator import Orchestrator
from clip_pipeline.serving.push.hub import Hub
from clip_pipeline.serving.scrape import Read
from clip_pipeline.serving.services import Services
from clip_pipeline.settings import Settings

FAILED_TICKS_S = 3600.0
"""How far back ticks of sensors are counted."""

KAFKA_UPLOADS = "kafka_uploads"
"""The lane that the broker queues for; the others are the ledger's."""


def parts_of(services: Services, hub: Hub) -> dict[str, Read]:
    """How to read each part, by its name."""
    ledger, processed = services.ledger, ProcessedImages()
    reads: dict[str, Read] = {
        "files": lambda: file_readings(ledger),
        "failures": lambda: failure_readings(ledger),
        "jobs": lambda: job_readings(ledger),
        "embedding": lambda: [Reading(metrics.EMBEDDED_IMAGES, processed.count(processed_by_batch(ledger)))],
        "queues": lambda: queue_readings(ledger),
        "workers": lambda: worker_readings(ledger),
        "index": lambda: index_readings(services),
        "analysis": lambda: analysis_readings(ledger),
        "push": lambda: [Reading(metrics.PUSH_LISTENERS, hub.listeners)],
        "dagster": lambda: dagster_readings(services.orchestrator),
        "sensors": lambda: sensor_readings(services.orchestrator),
    }
    if services.settings.kafka_bootstrap:
        reads["kafka"] = lambda: kafka_readings(services.settings)
    return reads


def file_readings(ledger: Ledger) -> Sequence[Reading]:
    """Files and images by state."""
    counts = counts_by_state(ledger)
    return [*by_label(metrics.LEDGER_FILES, counts.files), *by_label(metrics.LEDGER_IMAGES, counts.images)]


def failure_readings(ledger: Ledger) -> Sequence[Reading]:
    """Failed files by reason code, those of which there are none included."""
    return by_label(metrics.FAILED_FILES, dict.fromkeys(ReasonCode, 0) | failures_by_code(ledger))


def job_readings(ledger: Ledger) -> Sequence[Reading]:
    """Jobs by status. The ledger's word alone: a job whose first run has just begun may count as queued."""
    now = time.time()
    found = Counter(job_status(job, (), now=now) for job in open_jobs(ledger))
    found[JobStatus.COMPLETED], found[JobStatus.CANCELED] = closed_jobs_by_outcome(ledger)
    return by_label(metrics.JOBS, {status: found[status] for status in JobStatus})


class ProcessedImages:
    """Images embedded or quarantined, as a count that only grows: that of a batch embedded again begins anew."""

    def __init__(self) -> None:
        self._seen: Mapping[int, int] = {}
        self._total = 0

    def count(self, by_batch: Mapping[int, int]) -> int:
        """What was ever processed, given what each batch has behind it now."""
        for number, processed in by_batch.items():
            before = self._seen.get(number, 0)
            self._total += processed - before if processed >= before else processed
        self._seen = by_batch
        return self._total


def queue_readings(ledger: Ledger) -> Sequence[Reading]:
    """How much waits in each lane, and since when."""
    found = queues(ledger)
    return [
        *by_label(metrics.QUEUE_ITEMS, {lane: queue.items for lane, queue in found.items()}),
        *by_label(metrics.QUEUE_OLDEST_SECONDS, {
            lane: 0.0 if queue.oldest_at is None else _age_s(queue.oldest_at) for lane, queue in found.items()
        }),
    ]  # fmt: skip


def kafka_readings(settings: Settings) -> Sequence[Reading]:
    """What waits in the topic of uploads, of which the ledger knows nothing yet."""
    from clip_pipeline.serving.kafka.backlog import uploads_backlog  # noqa: PLC0415  (an extra)

    backlog = uploads_backlog(settings)
    age_s = 0.0 if backlog.oldest_at is None else max(0.0, time.time() - backlog.oldest_at)
    return [
        Reading(metrics.QUEUE_ITEMS, backlog.messages, (KAFKA_UPLOADS,)),
        Reading(metrics.QUEUE_OLDEST_SECONDS, age_s, (KAFKA_UPLOADS,)),
    ]


def worker_readings(ledger: Ledger) -> Sequence[Reading]:
    """Workers by state, and of each one how long it has been silent and how fast it is."""
    known = list_workers(ledger)
    states = Counter(worker.state for worker in known)
    present = [worker for worker in known if worker.state is not WorkerState.LEFT]
    return [
        *by_label(metrics.WORKERS, {state: states[state] for state in WorkerState}),
        *by_label(metrics.WORKER_SILENT_SECONDS, {w.card.address: max(0.0, w.silent_s) for w in present}),
        *by_label(metrics.WORKER_IMAGES_PER_SECOND, {
            worker.card.address: worker.report.images_per_s for worker in present if worker.is_alive
        }),
    ]  # fmt: skip


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
    """The analysis lane: requests by state, and how long they take."""
    stats = analysis_stats(ledger)
    readings = by_label(metrics.ANALYSIS_REQUESTS, {
        AnalysisState.SUBMITTED: stats.submitted, AnalysisState.PROCESSING: stats.processing,
        AnalysisState.COMPLETED: stats.completed, AnalysisState.FAILED: stats.failed,
    })  # fmt: skip
    if stats.mean_processing_time_ms is not None:
        readings.append(Reading(metrics.ANALYSIS_PROCESSING_SECONDS, stats.mean_processing_time_ms / 1000))
    return readings


def dagster_readings(orchestrator: Orchestrator) -> Sequence[Reading]:
    """Runs by status and the signs of life of the daemons; only that Dagster is away where it does not answer."""
    try:
        pulse = orchestrator.pulse()
    except StackError:
        return [Reading(metrics.DAGSTER_UP, 0)]
    now = time.time()
    age_s = 0.0 if pulse.oldest_queued_at is None else max(0.0, now - pulse.oldest_queued_at)
    ages = {daemon: max(0.0, now - seen_at) for daemon, seen_at in pulse.heartbeats.items()}
    return [
        Reading(metrics.DAGSTER_UP, 1),
        *by_label(metrics.DAGSTER_RUNS, pulse.runs),
        Reading(metrics.DAGSTER_OLDEST_QUEUED_SECONDS, age_s),
        *by_label(metrics.DAGSTER_HEARTBEAT_AGE_SECONDS, ages),
    ]


def sensor_readings(orchestrator: Orchestrator) -> Sequence[Reading]:
    """Code locations, loaded or not, and the failed ticks of their sensors."""
    found = orchestrator.workspace(since=time.time() - FAILED_TICKS_S)
    return [
        *by_label(metrics.DAGSTER_LOCATION_UP, found.locations),
        *by_label(metrics.DAGSTER_FAILED_TICKS, found.failed_ticks),
    ]


def _age_s(moment: str) -> float:
    return max(0.0, time.time() - datetime.fromisoformat(moment).timestamp())
