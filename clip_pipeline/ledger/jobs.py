"""What the ledger knows of a job: its counts. Its lifecycle is Dagster's to tell; `job_status` puts both together."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, func, select, update

from clip_pipeline.core.errors import NotFoundError
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


def job_counts(ledger: Ledger, job_id: str) -> JobCounts:
    """Where one job stands.

    Raises:
        NotFoundError: no job has this id.
    """
    with ledger.read() as connection:
        row = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).mappings().first()
        if row is None:
            raise unknown_job(job_id)
        by_state = _states_of(connection, job_id)
        running = _processed_in_runs(connection, job_id)
        error = _error_of(connection, job_id)
    pending = sum(by_state.get(state, 0) for state in PENDING_FILES)
    total, failed = int(row["total_images"]), by_state.get(FileState.FAILED, 0)
    # Embedded counts as processed; so do the images that a run of one of the job's batches has behind it.
    waiting = by_state.get(FileState.REGISTERED, 0) + by_state.get(FileState.MANIFESTED, 0)
    processed = total - max(0, waiting - running)
    if row["completed_at"] is not None:
        pending, processed, failed, error = 0, total, int(row["failed_images"] or 0), None
    elif row["canceled_at"] is not None:  # what it still waited for was taken from it, see `cancellation`
        pending, processed, failed, error = 0, sum(by_state.values()), int(row["failed_images"] or 0), None
    return JobCounts(
        job_id, row["source"], row["priority"], row["created_at"], row["started_at"], row["completed_at"],
        row["canceled_at"], row["images_count"], row["new_images_count"], row["already_indexed_count"], total,
        processed, failed, pending, error,
    )  # fmt: skip


def unknown_job(job_id: str) -> NotFoundError:
    """The error for an id that no job has."""
    return NotFoundError(f"no job {job_id!r}; `clip-pipeline status` lists the recent ones")


def failed_paths_of_job(ledger: Ledger, job_id: str) -> tuple[int, list[str]]:
    """The priority of one job and the paths (text form) of all its failed files.

    Raises:
        NotFoundError: no job has this id.
    """
    failed = (
        select(files.c.path)
        .join(job_files, job_files.c.file_id == files.c.file_id)
        .where(job_files.c.job_id == job_id, files.c.state == FileState.FAILED)
        .order_by(files.c.path)
    )
    with ledger.read() as connection:
        priority = connection.execute(select(jobs.c.priority).where(jobs.c.job_id == job_id)).scalar()
        if priority is None:
            raise unknown_job(job_id)
        return priority, list(connection.execute(failed).scalars())


def failed_of_job(ledger: Ledger, job_id: str, *, most: int = FAILED_SHOWN) -> list[FailedFile]:
    """The first failed files of one job, by path."""
    with ledger.read() as connection:
        rows = connection.execute(
            select(files.c.path, files.c.reason)
            .join(job_files, job_files.c.file_id == files.c.file_id)
            .where(job_files.c.job_id == job_id, files.c.state == FileState.FAILED)
            .order_by(files.c.path)
            .limit(most)
        )
        return [FailedFile(*row) for row in rows.tuples()]


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


def _states_of(connection: Connection, job_id: str) -> dict[str, int]:
    rows = connection.execute(
        select(files.c.state, func.count())
        .join(job_files, job_files.c.file_id == files.c.file_id)
        .where(job_files.c.job_id == job_id)
        .group_by(files.c.state)
    )
    return dict(rows.tuples().all())


def _processed_in_runs(connection: Connection, job_id: str) -> int:
    of_job = select(job_files.c.file_id).where(job_files.c.job_id == job_id)
    return processed_in_runs(connection, files.c.file_id.in_(of_job))


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


def _error_of(connection: Connection, job_id: str) -> str | None:
    query = (
        select(batches.c.error)
        .join(files, files.c.batch == batches.c.number)
        .join(job_files, job_files.c.file_id == files.c.file_id)
        .where(job_files.c.job_id == job_id, files.c.state.in_(PENDING_FILES), batches.c.error.is_not(None))
        .limit(1)
    )
    return connection.execute(query).scalar()


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
