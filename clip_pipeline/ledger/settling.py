"""Closing jobs: a job is complete once none of its files awaits work; its counts are frozen at that moment.

Frozen, because a file that changes next month must not re-open the job that brought it first.
"""

from sqlalchemy import Connection, func, select, update

from clip_pipeline.ledger.database import utc_now
from clip_pipeline.ledger.schema import files, job_files, jobs
from clip_pipeline.ledger.states import PENDING_FILES, FileState


def settle_jobs(connection: Connection) -> list[str]:
    """Complete every open job that waits for nothing; returns their ids."""
    waiting = (
        select(job_files.c.file_id)
        .join(files, files.c.file_id == job_files.c.file_id)
        .where(job_files.c.job_id == jobs.c.job_id, files.c.state.in_(PENDING_FILES))
        # One is enough. Said of a value, it holds for PostgreSQL too, whose EXISTS may join all jobs to all files.
        .limit(1)
        .scalar_subquery()
    )
    still_open = (jobs.c.completed_at.is_(None)) & (jobs.c.canceled_at.is_(None))
    done = list(connection.execute(select(jobs.c.job_id).where(still_open, waiting.is_(None))).scalars())
    for job_id in done:
        failed = (
            select(func.count())
            .select_from(job_files.join(files, files.c.file_id == job_files.c.file_id))
            .where(job_files.c.job_id == job_id, files.c.state == FileState.FAILED)
        )
        connection.execute(
            update(jobs)
            .where(jobs.c.job_id == job_id)
            .values(completed_at=utc_now(), failed_images=failed.scalar_subquery())
        )
    return done
