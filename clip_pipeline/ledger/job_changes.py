"""Which jobs may have changed since a moment: what push looks at again and again, so every query here is cheap."""

from dataclasses import dataclass

from sqlalchemy import func, or_, select

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.schema import batches, jobs


@dataclass(frozen=True, slots=True)
class LedgerMark:
    """Facts that differ after nearly every change of a job; what they miss, a look from time to time finds."""

    jobs: tuple[str | None, int]
    batches: tuple[int, str | None, int, int]


@dataclass(frozen=True, slots=True, order=True)
class ClosedJob:
    """A job that was completed or canceled, and when; sorted by that."""

    closed_at: str
    job_id: str


def ledger_mark(ledger: Ledger) -> LedgerMark:
    """Where the ledger stands now. Measured: 1.5 ms with 10,000 batches."""
    unfinished = jobs.c.completed_at.is_(None) & jobs.c.canceled_at.is_(None)
    with ledger.read() as connection:
        newest = connection.execute(select(func.max(jobs.c.created_at))).scalar()
        open_now = connection.execute(select(func.count()).select_from(jobs).where(unfinished)).scalar_one()
        count, updated, processed, errors = connection.execute(
            select(
                func.count(), func.max(batches.c.updated_at), func.sum(batches.c.processed), func.count(batches.c.error)
            ).select_from(batches)
        ).one()
    return LedgerMark((newest, open_now), (int(count), updated, int(processed or 0), int(errors)))


def open_or_new_job_ids(ledger: Ledger, *, created_since: str, most: int) -> list[str]:
    """The oldest `most` open jobs, and every job created at or after the moment, open or not."""
    unfinished = jobs.c.completed_at.is_(None) & jobs.c.canceled_at.is_(None)
    with ledger.read() as connection:
        oldest = connection.execute(
            select(jobs.c.job_id).where(unfinished).order_by(jobs.c.created_at, jobs.c.job_id).limit(most)
        ).scalars()
        found = list(oldest)
        new = connection.execute(
            select(jobs.c.job_id).where(jobs.c.created_at >= created_since).order_by(jobs.c.created_at, jobs.c.job_id)
        ).scalars()
        return list(dict.fromkeys([*found, *new]))


def jobs_closed_after(ledger: Ledger, last: ClosedJob, *, most: int | None = None) -> list[ClosedJob]:
    """The first jobs completed or canceled after `last`, in order. `ClosedJob(moment, "")`: at or after a moment."""
    # Completed and canceled never both: whichever is there. Not indexed: 8 ms with 100,000 jobs in SQLite.
    closed_at = func.coalesce(jobs.c.canceled_at, jobs.c.completed_at)
    later = or_(closed_at > last.closed_at, (closed_at == last.closed_at) & (jobs.c.job_id > last.job_id))
    with ledger.read() as connection:
        rows = connection.execute(
            select(closed_at, jobs.c.job_id).where(later).order_by(closed_at, jobs.c.job_id).limit(most)
        )
        return [ClosedJob(*row) for row in rows.tuples()]
