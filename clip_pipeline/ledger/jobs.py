"""What the ledger knows of a job: its counts. Its lifecycle is Dagster's to tell; `job_status` puts both together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select, update

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.schema import batches, files, images, job_files, jobs
from clip_pipeline.ledger.states import PENDING_FILES, FileState

FAILED_SHOWN = 100


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A path, in text form, and why it failed."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class JobCounts:
    """One job. processed counts the images finished either way, those of a run that is going on included;
    pending is the part that is not searchable, duplicate or failed yet. error: why its work was given up."""

    job_id: str
    source: str
    priority: int
    created_at: str
    started_at: str | None
    completed_at: str | None
    canceled_at: str | None
    images_count: int
    new_images_count: int
    already_indexed_count: int
    total: int
    processed: int
    failed: int
    pending: int
    error: str | None

    @property
    def percent_complete(self) -> float:
        """Share of images finished, 0 to 100, one decimal."""
        return round(100 * self.processed / self.total, 1) if self.total else 100.0


@dataclass(frozen=True, slots=True)
class _Work:
    """What an open job has before it. waiting: the pending images not processed yet, those in runs left out."""

    pending: int
    waiting: int
    failed: int
    error: str | None


_NO_WORK = _Work(0, 0, 0, None)


def job_counts(ledger: Ledger, job_id: str) -> JobCounts:
    """Where one job stands. The files are counted only while it is open; measured: 10 ms for 100,000 of its own.

    Raises:
        NotFoundError: no job has this id.
    """
    with ledger.read() as connection:
        row = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).mappings().first()
        if row is None:
            raise unknown_job(job_id)
        is_open = row["completed_at"] is None and row["canceled_at"] is None
        work = _open_work(connection, job_id, total=row["total_images"]) if is_open else _NO_WORK
        done = _members(connection, job_id) if row["canceled_at"] is not None else row["total_images"] - work.waiting
    # Frozen when it closed: a file that fails or changes later belongs to the history of another job.
    failed = work.failed if row["failed_images"] is None else row["failed_images"]
    return JobCounts(
        job_id, row["source"], row["priority"], row["created_at"], row["started_at"], row["completed_at"],
        row["canceled_at"], row["images_count"], row["new_images_count"], row["already_indexed_count"],
        row["total_images"], done, failed, work.pending, work.error,
    )  # fmt: skip


def unknown_job(job_id: str) -> NotFoundError:
    """The error for an id that no job has."""
    return NotFoundError(f"no job {job_id!r}; `clip-pipeline status` lists the recent ones")


def failed_paths_of_job(ledger: Ledger, job_id: str) -> tuple[int, list[str]]:
    """The priority of one job and the paths (text form) of all its failed files.

    Raises:
        NotFoundError: no job has this id.
    """
    with ledger.read() as connection:
        priority = connection.execute(select(jobs.c.priority).where(jobs.c.job_id == job_id)).scalar()
        if priority is None:
            raise unknown_job(job_id)
        failed = of_job(connection, job_id, files.c.path).where(files.c.state == FileState.FAILED)
        return priority, list(connection.execute(failed.order_by(files.c.path)).scalars())


def failed_of_job(ledger: Ledger, job_id: str, *, most: int = FAILED_SHOWN) -> list[FailedFile]:
    """The first failed files of one job, by path."""
    with ledger.read() as connection:
        failed = of_job(connection, job_id, files.c.path, files.c.reason).where(files.c.state == FileState.FAILED)
        rows = connection.execute(failed.order_by(files.c.path).limit(most))
        return [FailedFile(*row) for row in rows.tuples()]


def of_job(connection: Connection, job_id: str, *columns: ColumnElement[Any]) -> Select[Any]:
    """A query for these columns of the files of one job.

    Nearly always the job was the last to register each of its files, and an index of `files` finds them. Where it
    waits for files of another job, or one has registered some of its files since, every file is looked up: 30 ms for
    100,000. Which of the two holds is seen from the number of its own files: they are all among its files.
    """
    own = _own(job_id, func.count()).scalar_subquery()
    alone = select(own == jobs.c.total_images).where(jobs.c.job_id == job_id, jobs.c.canceled_at.is_(None))
    return _own(job_id, *columns) if connection.execute(alone).scalar() else _listed(job_id, *columns)


def _own(job_id: str, *columns: ColumnElement[Any]) -> Select[Any]:
    return select(*columns).select_from(files).where(files.c.job_id == job_id)


def _listed(job_id: str, *columns: ColumnElement[Any]) -> Select[Any]:
    members = job_files.join(files, files.c.file_id == job_files.c.file_id)
    return select(*columns).select_from(members).where(job_files.c.job_id == job_id)


def recent_jobs(ledger: Ledger, *, most: int = 20) -> list[JobCounts]:
    """The newest jobs, newest first."""
    with ledger.read() as connection:
        ids = _ids(connection, select(jobs.c.job_id).order_by(jobs.c.created_at.desc(), jobs.c.job_id).limit(most))
    return [job_counts(ledger, job_id) for job_id in ids]


def open_jobs(ledger: Ledger) -> list[JobCounts]:
    """Jobs that are neither complete nor canceled, oldest first."""
    unfinished = jobs.c.completed_at.is_(None) & jobs.c.canceled_at.is_(None)
    with ledger.read() as connection:
        ids = _ids(connection, select(jobs.c.job_id).where(unfinished).order_by(jobs.c.created_at, jobs.c.job_id))
    return [job_counts(ledger, job_id) for job_id in ids]


def open_job_ids(ledger: Ledger, *, most: int) -> list[str]:
    """The ids of the oldest jobs that are neither complete nor canceled."""
    unfinished = jobs.c.completed_at.is_(None) & jobs.c.canceled_at.is_(None)
    with ledger.read() as connection:
        return list(_ids(connection, select(jobs.c.job_id).where(unfinished).order_by(jobs.c.created_at).limit(most)))


def _ids(connection: Connection, query: Select[tuple[str]]) -> Sequence[str]:
    return list(connection.execute(query).scalars())


def _open_work(connection: Connection, job_id: str, *, total: int) -> _Work:
    count = _count_by_batch(connection, _own, job_id)
    if sum(count.values()) != total:  # as in `of_job`, with the counting done at once
        count = _count_by_batch(connection, _listed, job_id)
    pending = {key: number for key, number in count.items() if key[0] in PENDING_FILES}
    in_runs, error = 0, None
    for chunk in chunks(sorted({batch for _, batch in pending if batch is not None})):
        for batch in connection.execute(select(batches).where(batches.c.number.in_(chunk)).order_by(batches.c.number)):
            error = error or batch.error
            if batch.images and batch.embedded_manifest is None:
                # What a run has behind it is known by the batch only: the job has its share of that.
                mine = pending.get((FileState.MANIFESTED, batch.number), 0)
                in_runs += mine * min(batch.processed, batch.images) // batch.images
    # Embedded counts as processed, and so does what runs have behind them.
    waiting = sum(number for (state, _), number in pending.items() if state != FileState.EMBEDDED) - in_runs
    failed = sum(number for (state, _), number in count.items() if state == FileState.FAILED)
    return _Work(sum(pending.values()), max(0, waiting), failed, error)


def _count_by_batch(
    connection: Connection, find: Callable[..., Select[Any]], job_id: str
) -> dict[tuple[str, int | None], int]:
    by = (files.c.state, files.c.batch)
    rows = connection.execute(find(job_id, *by, func.count()).group_by(*by))
    return {(state, batch): number for state, batch, number in rows.tuples()}


def _members(connection: Connection, job_id: str) -> int:
    """The files that a job still has; one that is canceled has let go of those that were not finished."""
    return connection.execute(
        select(func.count()).select_from(job_files).where(job_files.c.job_id == job_id)
    ).scalar_one()


def processed_in_runs(connection: Connection, chosen: ColumnElement[bool]) -> int:
    """Of the chosen files in batches not yet recorded as embedded, those a run has behind it, by share of the batch."""
    waiting = (
        select(files.c.batch, func.count().label("mine"))
        .where(chosen, files.c.state == FileState.MANIFESTED)
        .group_by(files.c.batch)
        .subquery()
    )
    rows = connection.execute(
        select(waiting.c.mine, batches.c.processed, batches.c.images)
        .join(batches, batches.c.number == waiting.c.batch)
        .where(batches.c.images > 0, batches.c.embedded_manifest.is_(None))
    )
    return sum(mine * min(processed, total) // total for mine, processed, total in rows.tuples())


def give_up_batch(ledger: Ledger, number: int, *, error: str | None) -> None:
    """Write down why the work on a batch was given up, or (None) that there is hope again."""
    with ledger.write() as connection:
        connection.execute(update(batches).where(batches.c.number == number).values(error=error))


def indexed_images(ledger: Ledger) -> int:
    """Images that the recorded release shows."""
    with ledger.read() as connection:
        return connection.execute(
            select(func.count()).select_from(images).where(images.c.in_release.is_(True))
        ).scalar_one()
