"""Jobs that are over, newest first, and failed files, by path: lists of any length, read a page at a time."""

from dataclasses import dataclass

from sqlalchemy import or_, select

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import FAILED_SHOWN, FailedFile, of_job
from clip_pipeline.ledger.schema import files, jobs
from clip_pipeline.ledger.states import FileState

JOBS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ClosedJobLine:
    """One job that was completed or canceled. images_count: distinct paths submitted; failed_images: frozen when it
    closed."""

    job_id: str
    source: str
    created_at: str
    is_canceled: bool
    images_count: int
    failed_images: int


@dataclass(frozen=True, slots=True)
class JobPosition:
    """A place in the list of jobs: what comes after it was created earlier, or at the same time with a greater id."""

    created_at: str
    job_id: str


def closed_jobs(ledger: Ledger, *, after: JobPosition | None = None, most: int = JOBS_SHOWN) -> list[ClosedJobLine]:
    """The newest closed jobs that come after a place, newest first. Reads the jobs' own rows only."""
    query = select(jobs).where(jobs.c.completed_at.is_not(None) | jobs.c.canceled_at.is_not(None))
    if after is not None:
        same_moment = (jobs.c.created_at == after.created_at) & (jobs.c.job_id > after.job_id)
        query = query.where(or_(jobs.c.created_at < after.created_at, same_moment))
    with ledger.read() as connection:
        rows = connection.execute(query.order_by(jobs.c.created_at.desc(), jobs.c.job_id).limit(most)).mappings()
        return [
            ClosedJobLine(
                job_id=row["job_id"],
                source=row["source"],
                created_at=row["created_at"],
                is_canceled=row["canceled_at"] is not None,
                images_count=row["images_count"],
                failed_images=row["failed_images"] or 0,
            )
            for row in rows
        ]


def failed_after(ledger: Ledger, job_id: str, *, path: str = "", most: int = FAILED_SHOWN) -> list[FailedFile]:
    """The failed files of one job whose path (text form) comes after `path`, by path."""
    with ledger.read() as connection:
        query = of_job(connection, job_id, files.c.path, files.c.reason).where(
            files.c.state == FileState.FAILED, files.c.path > path
        )
        rows = connection.execute(query.order_by(files.c.path).limit(most))
        return [FailedFile(*row) for row in rows.tuples()]


def failed_with_code(ledger: Ledger, code: str, *, path: str = "", most: int = FAILED_SHOWN) -> list[FailedFile]:
    """The files that failed with one reason code and whose path (text form) comes after `path`, by path."""
    has_code = (files.c.reason == code) | files.c.reason.startswith(f"{code}:", autoescape=True)
    query = (
        select(files.c.path, files.c.reason)
        .where(files.c.state == FileState.FAILED, has_code, files.c.path > path)
        .order_by(files.c.path)
        .limit(most)
    )
    with ledger.read() as connection:
        return [FailedFile(*row) for row in connection.execute(query).tuples()]
