"""What waits in each lane, how much and since when, and what was done: small numbers for whoever watches from outside.

Counts come from indexes, ages from the rows of jobs and batches: cheap at any number of files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, func, select

from clip_pipeline.ledger.analysis_queue import waiting
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.planning import embedding_wanted, inspection_wanted
from clip_pipeline.ledger.schema import AWAITS_DELIVERY, analysis_requests, batches, files, images, jobs
from clip_pipeline.ledger.states import VECTOR_IMAGES, FileState, ImageState

_TO_EMBED = images.c.state == ImageState.MANIFESTED
_WITHOUT_VECTOR = tuple(state for state in ImageState if state not in VECTOR_IMAGES)


class Lane(StrEnum):
    """The lanes that the ledger queues for, in the order of the work."""

    INSPECTION = "inspection"
    EMBEDDING = "embedding"
    MERGE = "merge"
    ANALYSIS = "analysis"
    KAFKA_RESULTS = "kafka_results"


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits in a lane. oldest_at: since when the oldest of it does, ISO 8601; None where nothing waits."""

    items: int
    oldest_at: str | None


def queues(ledger: Ledger) -> dict[Lane, Queue]:
    """Every lane, the empty ones included.

    Items are files to inspect, images to embed, images that the release lacks or must lose, uploads to analyze, and
    results that Kafka does not have yet. Bulk work is as old as the plan of its batch, or its job where it has none.
    """
    uploads = waiting(ledger)
    with ledger.read() as connection:
        return {
            Lane.INSPECTION: Queue(_count_files(connection), _first_to_inspect(connection)),
            Lane.EMBEDDING: Queue(_count_images(connection, _TO_EMBED), _first_to_embed(connection)),
            Lane.MERGE: Queue(_count_to_merge(connection), _first_to_merge(connection)),
            Lane.ANALYSIS: Queue(uploads.submitted, uploads.oldest_submitted_at),
            Lane.KAFKA_RESULTS: _undelivered(connection),
        }


def closed_jobs_by_outcome(ledger: Ledger) -> tuple[int, int]:
    """How many jobs were completed, and how many canceled."""
    was_canceled = jobs.c.canceled_at.is_not(None)
    completed = jobs.c.completed_at.is_not(None) & jobs.c.canceled_at.is_(None)
    count = select(func.count()).select_from(jobs)
    with ledger.read() as connection:
        ended, canceled = (connection.execute(count.where(chosen)).scalar_one() for chosen in (completed, was_canceled))
        return ended, canceled


def processed_by_batch(ledger: Ledger) -> dict[int, int]:
    """How many images of each batch were embedded or failed, those of a run that is going on included."""
    with ledger.read() as connection:
        rows = connection.execute(select(batches.c.number, batches.c.processed))
        return dict(rows.tuples().all())


def _count_files(connection: Connection) -> int:
    waits = files.c.state == FileState.REGISTERED
    return connection.execute(select(func.count()).select_from(files).where(waits)).scalar_one()


def _count_images(connection: Connection, chosen: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).select_from(images).where(chosen)).scalar_one()


def _count_to_merge(connection: Connection) -> int:
    # The states are named, not ruled out: so the index finds the few, and leaves a million indexed images unread.
    gone = images.c.state.in_(_WITHOUT_VECTOR) & images.c.in_release.is_(True)
    return _count_images(connection, images.c.state == ImageState.EMBEDDED) + _count_images(connection, gone)


def _first_to_inspect(connection: Connection) -> str | None:
    unplanned = select(files.c.file_id).where(
        files.c.job_id == jobs.c.job_id, files.c.state == FileState.REGISTERED, files.c.batch.is_(None)
    )
    is_open = jobs.c.completed_at.is_(None) & jobs.c.canceled_at.is_(None)
    job = select(func.min(jobs.c.created_at)).where(is_open, unplanned.exists())
    planned = batches.c.manifest_digest.is_(None) & inspection_wanted()
    return _earliest((connection.execute(job).scalar(), _first(connection, batches.c.created_at, planned)))


def _first_to_embed(connection: Connection) -> str | None:
    stale = batches.c.embedded_manifest.is_distinct_from(batches.c.manifest_digest)
    sealed = batches.c.manifest_digest.is_not(None) & (batches.c.images > 0)
    return _first(connection, batches.c.created_at, sealed & stale & embedding_wanted())


def _first_to_merge(connection: Connection) -> str | None:
    embedded = batches.c.embeddings_digest.is_not(None)
    unmerged = batches.c.merged_digest.is_distinct_from(batches.c.embeddings_digest)
    return _first(connection, batches.c.updated_at, embedded & unmerged)


def _first(connection: Connection, moment: ColumnElement[str], chosen: ColumnElement[bool]) -> str | None:
    return connection.execute(select(func.min(moment)).select_from(batches).where(chosen)).scalar()


def _undelivered(connection: Connection) -> Queue:
    waits = select(func.count(), func.min(analysis_requests.c.completed_at)).where(AWAITS_DELIVERY)
    return Queue(*connection.execute(waits).tuples().one())


def _earliest(moments: Iterable[str | None]) -> str | None:
    return min((moment for moment in moments if moment is not None), default=None)
