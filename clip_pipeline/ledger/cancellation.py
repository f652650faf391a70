"""Canceling a job: what nobody else waits for is taken out of work; what is done stays done.

A file that the job alone waited for and that has no vector yet ends as `deleted`, so that a later submission of the
same path registers it anew. One that another open job waits for goes on, for that job. One that has its vector is
shown by the next merge: nothing is left to be done for it that could be saved.
"""

from collections.abc import Set
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, ScalarSelect, Select, and_, delete, func, select, update

from clip_pipeline.core.errors import ConflictError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.database import Ledger, utc_now
from clip_pipeline.ledger.jobs import unknown_job
from clip_pipeline.ledger.planning import embedding_wanted, inspection_wanted
from clip_pipeline.ledger.removal import delete_files
from clip_pipeline.ledger.schema import batches, files, job_files, jobs
from clip_pipeline.ledger.settling import settle_jobs
from clip_pipeline.ledger.states import FileState

WITHOUT_VECTOR = (FileState.REGISTERED, FileState.MANIFESTED)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What canceling a job took out of work. files: 0 where the job was canceled before."""

    job_id: str
    canceled_at: str
    files: int


def cancel_job(ledger: Ledger, job_id: str) -> Cancellation:
    """Cancel one job, in one transaction. Canceling it again changes nothing.

    Raises:
        NotFoundError: no job has this id.
        ConflictError: the job is complete.
    """
    with ledger.write() as connection:
        job = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).first()
        if job is None:
            raise unknown_job(job_id)
        if job.completed_at is not None:
            raise ConflictError(f"job {job_id} is complete since {job.completed_at}; there is nothing left to cancel")
        if job.canceled_at is not None:
            return Cancellation(job_id, job.canceled_at, 0)
        canceled_at = utc_now()
        withdrawn = _let_go(connection, job_id, canceled_at)
        delete_files(connection, withdrawn)
        settle_jobs(connection)
    return Cancellation(job_id, canceled_at, len(withdrawn))


def unwanted_inspections(ledger: Ledger, keys: Set[BatchKey]) -> set[BatchKey]:
    """Those of the batches whose inspection serves nobody any more."""
    return _unwanted(ledger, keys, inspection_wanted())


def unwanted_embeddings(ledger: Ledger, keys: Set[BatchKey]) -> set[BatchKey]:
    """Those of the batches whose embedding serves nobody any more."""
    return _unwanted(ledger, keys, embedding_wanted())


def _unwanted(ledger: Ledger, keys: Set[BatchKey], wanted: ColumnElement[bool]) -> set[BatchKey]:
    asked = batches.c.number.in_([key.number for key in keys])
    with ledger.read() as connection:
        numbers = connection.execute(select(batches.c.number).where(asked, wanted)).scalars()
        return set(keys) - {BatchKey(number) for number in numbers}


def _let_go(connection: Connection, job_id: str, canceled_at: str) -> list[int]:
    """Close the job and free the files that it waited for; returns the ids of those that no other job waits for."""
    unfinished = (
        select(job_files.c.file_id)
        .join(files, files.c.file_id == job_files.c.file_id)
        .where(job_files.c.job_id == job_id, files.c.state.in_(WITHOUT_VECTOR))
    )
    heir = _another_open_job(job_id)
    alone = list(connection.execute(unfinished.where(heir.is_(None))).scalars())
    failed = _count_failed(job_id)
    connection.execute(
        update(jobs).where(jobs.c.job_id == job_id).values(canceled_at=canceled_at, failed_images=failed)
    )
    connection.execute(
        update(files)
        .where(files.c.job_id == job_id, files.c.file_id.in_(unfinished), heir.is_not(None))
        .values(job_id=heir)
    )
    # The rows that stay are those of finished files: their number is what the job got done.
    connection.execute(
        delete(job_files).where(job_files.c.job_id == job_id, job_files.c.file_id.in_(_ids_of(unfinished)))
    )
    return alone


def _another_open_job(job_id: str) -> ScalarSelect[str]:
    """The id of the oldest other open job that waits for a row of `files`, null where there is none."""
    waiting, others = job_files.alias("waiting"), jobs.alias("others")
    is_open = and_(others.c.completed_at.is_(None), others.c.canceled_at.is_(None), others.c.job_id != job_id)
    return (
        select(func.min(others.c.job_id))
        .join(waiting, waiting.c.job_id == others.c.job_id)
        .where(waiting.c.file_id == files.c.file_id, is_open)
        .correlate(files)
        .scalar_subquery()
    )


def _count_failed(job_id: str) -> ScalarSelect[int]:
    return (
        select(func.count())
        .select_from(job_files.join(files, files.c.file_id == job_files.c.file_id))
        .where(job_files.c.job_id == job_id, files.c.state == FileState.FAILED)
        .scalar_subquery()
    )


def _ids_of(query: Select[tuple[int]]) -> Select[tuple[int]]:
    return select(query.subquery("unfinished").c.file_id)
