"""Planning: registered files that no batch holds yet, divided into batches.

A large job gets batches of its own, so that its progress is its own; small jobs that wait together share one, so
that a thousand submissions of one image do not become a thousand Dagster partitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.database import Ledger, inserted_id, utc_now
from clip_pipeline.ledger.schema import batches, files, images, job_files, jobs
from clip_pipeline.ledger.states import LIVE_IMAGES, FileState, ImageState

LARGE_JOB_SHARE = 10
"""A job with at least batch_size / 10 waiting files is large."""

MAX_JOBS_PER_BATCH = 100
"""Every job of a batch is a tag on its runs."""


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A job and how many of its files no batch holds yet."""

    job_id: str
    priority: int
    files: int


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """Which jobs give how many files, oldest first, to one new batch."""

    priority: int
    parts: tuple[tuple[str, int], ...]

    @property
    def files(self) -> int:
        """Files of all parts together."""
        return sum(count for _, count in self.parts)


@dataclass(frozen=True, slots=True)
class BatchWork:
    """A batch that awaits a step: its key, priority and the jobs to name on the run.

    manifest_run_id: the run that sealed its manifest; a manifest sealed anew is new work for the next step. images:
    rows of that manifest, 0 before there is one.
    """

    key: BatchKey
    priority: int
    job_ids: tuple[str, ...]
    manifest_run_id: str | None
    images: int


def divide_into_batches(waiting: Sequence[WaitingJob], *, batch_size: int, most: int) -> list[PlannedBatch]:
    """At most `most` batches for the waiting jobs, which come most urgent first, then oldest first.

    Every batch holds between 1 and `batch_size` files; small jobs share a batch only with jobs of equal priority.
    """
    large = max(1, batch_size // LARGE_JOB_SHARE)
    planned: list[PlannedBatch] = []
    shared: list[tuple[str, int]] = []
    shared_priority = 0

    def close_shared() -> None:
        if shared:
            planned.append(PlannedBatch(shared_priority, tuple(shared)))
            shared.clear()

    for job in waiting:
        if job.files >= large:
            planned += [PlannedBatch(job.priority, ((job.job_id, n),)) for n in _cut(job.files, batch_size)]
            continue
        room = batch_size - sum(count for _, count in shared)
        if job.priority != shared_priority or job.files > room or len(shared) == MAX_JOBS_PER_BATCH:
            close_shared()
        shared_priority = job.priority
        shared.append((job.job_id, job.files))
    close_shared()
    return planned[:most]


def plan_batches(ledger: Ledger, *, batch_size: int, most: int) -> list[BatchKey]:
    """Put waiting files into new batches and return their keys, in one transaction."""
    with ledger.write() as connection:
        planned = divide_into_batches(waiting_jobs(connection), batch_size=batch_size, most=most)
        return [_create_batch(connection, batch) for batch in planned]


def waiting_jobs(connection: Connection) -> list[WaitingJob]:
    """Jobs with files that no batch holds, most urgent first, then oldest first."""
    unplanned = (files.c.state == FileState.REGISTERED) & files.c.batch.is_(None)
    rows = connection.execute(
        select(jobs.c.job_id, jobs.c.priority, func.count())
        .join(files, files.c.job_id == jobs.c.job_id)
        .where(unplanned)
        .group_by(jobs.c.job_id, jobs.c.priority, jobs.c.created_at)
        .order_by(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.job_id)
    )
    return [WaitingJob(*row) for row in rows.tuples()]


def batch_keys(ledger: Ledger, *, after: int = 0) -> list[BatchKey]:
    """Every batch whose number is above `after`, in order."""
    with ledger.read() as connection:
        numbers = connection.execute(
            select(batches.c.number).where(batches.c.number > after).order_by(batches.c.number)
        ).scalars()
        return [BatchKey(number) for number in numbers]


def batches_to_inspect(ledger: Ledger, *, most: int) -> list[BatchWork]:
    """Planned batches without a sealed manifest, most urgent first. One that all its files left needs none."""
    return _work(ledger, batches.c.manifest_digest.is_(None) & inspection_wanted(), most=most)


def batches_to_embed(ledger: Ledger, *, most: int) -> list[BatchWork]:
    """Batches whose sealed manifest is not the one that was embedded last, most urgent first.

    A manifest without images, or whose images are all gone by now, needs no run.
    """
    stale = batches.c.embedded_manifest.is_distinct_from(batches.c.manifest_digest)
    sealed = batches.c.manifest_digest.is_not(None) & (batches.c.images > 0)
    return _work(ledger, sealed & stale & embedding_wanted(), most=most)


def inspection_wanted() -> ColumnElement[bool]:
    """True of a batch that somebody still waits to see inspected: it has files, or images that no manifest lists."""
    held = select(files.c.file_id).where(files.c.batch == batches.c.number)
    unlisted = select(images.c.image_id).where(
        images.c.batch == batches.c.number, images.c.state == ImageState.MANIFESTED
    )
    return held.exists() | unlisted.exists()


def embedding_wanted() -> ColumnElement[bool]:
    """True of a batch with an image that somebody still wants."""
    live = select(images.c.image_id).where(images.c.batch == batches.c.number, images.c.state.in_(LIVE_IMAGES))
    return live.exists()


def jobs_of_batch(connection: Connection, number: int) -> tuple[str, ...]:
    """Every open job that waits for a file of this batch, oldest first, at most `MAX_JOBS_PER_BATCH`."""
    rows = connection.execute(
        select(jobs.c.job_id)
        .join(job_files, job_files.c.job_id == jobs.c.job_id)
        .join(files, files.c.file_id == job_files.c.file_id)
        .where(files.c.batch == number, jobs.c.completed_at.is_(None), jobs.c.canceled_at.is_(None))
        .distinct()
        .order_by(jobs.c.job_id)
        .limit(MAX_JOBS_PER_BATCH)
    )
    return tuple(rows.scalars())


def _work(ledger: Ledger, condition: ColumnElement[bool], *, most: int) -> list[BatchWork]:
    with ledger.read() as connection:
        rows = connection.execute(
            select(batches.c.number, batches.c.priority, batches.c.manifest_run_id, batches.c.images)
            .where(condition)
            .order_by(batches.c.priority.desc(), batches.c.number)
            .limit(most)
        ).all()
        return [
            BatchWork(BatchKey(number), priority, jobs_of_batch(connection, number), sealed_by, listed or 0)
            for number, priority, sealed_by, listed in rows
        ]


def _create_batch(connection: Connection, planned: PlannedBatch) -> BatchKey:
    now = utc_now()
    created = connection.execute(
        insert(batches).values(priority=planned.priority, created_at=now, files=planned.files, updated_at=now)
    )
    number = inserted_id(created)
    for job_id, count in planned.parts:
        oldest = (
            select(files.c.file_id)
            .where(files.c.job_id == job_id, files.c.batch.is_(None), files.c.state == FileState.REGISTERED)
            .order_by(files.c.file_id)
            .limit(count)
        )
        connection.execute(update(files).where(files.c.file_id.in_(oldest)).values(batch=number, updated_at=now))
    return BatchKey(number)


def _cut(total: int, size: int) -> list[int]:
    pieces = -(-total // size)
    return [total // pieces + (i < total % pieces) for i in range(pieces)]


def manifest_digest(ledger: Ledger, batch: BatchKey) -> str | None:
    """The digest under which the manifest of `batch` was sealed, or None."""
    with ledger.read() as connection:
        return connection.execute(select(batches.c.manifest_digest).where(batches.c.number == batch.number)).scalar()
