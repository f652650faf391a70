"""Registration: one set-based transaction that turns a list of paths into what is new, changed, known or gone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    and_,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.schema import CreateTable, DropTable

from clip_pipeline.core.errors import ConflictError
from clip_pipeline.core.keys import new_job_id
from clip_pipeline.ledger.database import Ledger, utc_now
from clip_pipeline.ledger.removal import delete_files, detach_images
from clip_pipeline.ledger.schema import PathText, files, job_files, jobs
from clip_pipeline.ledger.settling import settle_jobs
from clip_pipeline.ledger.states import KNOWN_FILES, PENDING_FILES, FileState

INSERT_ROWS = 5_000
MISSING_SIZE = -1


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One path as the filesystem shows it now. path: text form. size_bytes is -1 where nothing is there."""

    path: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Submission:
    """Who asks and how urgently. A higher priority is worked on first."""

    source: str
    priority: int = 0
    idempotency_key: str | None = None
    request_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of a submission: distinct paths, those queued now, and those known and unchanged.

    pending_count: the part of `already_indexed_count` that another job queued and that this job waits for too.
    """

    job_id: str
    images_count: int
    new_images_count: int
    already_indexed_count: int
    pending_count: int


_incoming = Table(
    "incoming_files",
    MetaData(),
    Column("path", PathText, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    prefixes=["TEMPORARY"],
)

_unchanged = and_(files.c.size_bytes == _incoming.c.size_bytes, files.c.mtime_ns == _incoming.c.mtime_ns)
_known = and_(_unchanged, files.c.state.in_(KNOWN_FILES))
_pending = and_(_unchanged, files.c.state.in_(PENDING_FILES))


def register_files(ledger: Ledger, facts: Iterable[FileFacts], *, submission: Submission) -> Registration:
    """Register every path of one submission, in one transaction, and open a job for it.

    New, changed, failed and deleted files are queued for this job; those that another job has under way are waited
    for; those indexed and unchanged are only counted. A path given twice counts once, its last facts win. A repeated
    idempotency key gives what became of it the first time.

    Raises:
        ConflictError: the idempotency key was used for another request.
    """
    with ledger.write() as connection:
        # Asked under the write lock: of two equal requests at once, the second finds the job of the first.
        earlier = _repeated(connection, submission)
        return earlier or _register(connection, facts, submission=submission)


def repeated_submission(ledger: Ledger, submission: Submission) -> Registration | None:
    """What became of an earlier submission with the same idempotency key, None where there was none.

    Raises:
        ConflictError: the key was used for another request.
    """
    with ledger.read() as connection:
        return _repeated(connection, submission)


def register_scan(
    ledger: Ledger, found: Sequence[FileFacts], *, gone: Sequence[int], submission: Submission
) -> Registration | None:
    """Register what a folder scan found new or changed and delete the files (by file_id) that it found gone.

    Both or neither happen. Returns None, and opens no job, where nothing was found.
    """
    with ledger.write() as connection:
        delete_files(connection, gone)
        settle_jobs(connection)
        return _register(connection, found, submission=submission) if found else None


def _repeated(connection: Connection, submission: Submission) -> Registration | None:
    if submission.idempotency_key is None:
        return None
    row = connection.execute(select(jobs).where(jobs.c.idempotency_key == submission.idempotency_key)).first()
    if row is None:
        return None
    if row.request_digest != submission.request_digest:
        raise ConflictError(
            f"the idempotency key {submission.idempotency_key!r} was used for another request, job {row.job_id}; "
            "send the same request again, or choose another key"
        )
    pending = row.total_images - row.new_images_count
    return Registration(row.job_id, row.images_count, row.new_images_count, row.already_indexed_count, pending)


def _register(connection: Connection, facts: Iterable[FileFacts], *, submission: Submission) -> Registration:
    job_id, now = new_job_id(), utc_now()
    connection.execute(CreateTable(_incoming))
    try:
        total = _load_incoming(connection, facts)
        known, pending = _count_matching(connection, _known), _count_matching(connection, _pending)
        queued = total - known - pending
        connection.execute(
            insert(jobs).values(
                job_id=job_id, source=submission.source, priority=submission.priority, created_at=now,
                images_count=total, new_images_count=queued, already_indexed_count=known + pending,
                total_images=queued + pending, idempotency_key=submission.idempotency_key,
                request_digest=submission.request_digest,
            )
        )  # fmt: skip
        _join_pending(connection, job_id)
        _requeue_known_paths(connection, job_id, now)
        _insert_new_paths(connection, job_id, now)
    finally:
        connection.execute(DropTable(_incoming))
    settle_jobs(connection)
    return Registration(job_id, total, queued, known + pending, pending)


def _load_incoming(connection: Connection, facts: Iterable[FileFacts]) -> int:
    distinct = {fact.path: fact for fact in facts}
    rows = ({"path": f.path, "size_bytes": f.size_bytes, "mtime_ns": f.mtime_ns} for f in distinct.values())
    for chunk in _chunks(rows):
        connection.execute(insert(_incoming), chunk)
    return len(distinct)


def _count_matching(connection: Connection, condition: ColumnElement[bool]) -> int:
    matching = select(func.count()).select_from(_incoming.join(files, files.c.path == _incoming.c.path))
    return connection.execute(matching.where(condition)).scalar_one()


def _join_pending(connection: Connection, job_id: str) -> None:
    under_way = select(literal(job_id), files.c.file_id).join(_incoming, files.c.path == _incoming.c.path)
    connection.execute(insert(job_files).from_select(["job_id", "file_id"], under_way.where(_pending)))


def _requeue_known_paths(connection: Connection, job_id: str, now: str) -> None:
    """Files whose path is known but that need work again: changed, failed before, or deleted and back."""
    changing = select(files.c.file_id).join(_incoming, files.c.path == _incoming.c.path).where(~or_(_known, _pending))
    waited_for = changing.with_only_columns(literal(job_id), files.c.file_id)
    connection.execute(insert(job_files).from_select(["job_id", "file_id"], waited_for))
    detach_images(connection, changing)
    connection.execute(
        update(files)
        .where(files.c.path == _incoming.c.path, files.c.file_id.in_(changing))
        .values(size_bytes=_incoming.c.size_bytes, mtime_ns=_incoming.c.mtime_ns, job_id=job_id, batch=None,
                image_id=None, state=FileState.REGISTERED, reason=None, updated_at=now)
    )  # fmt: skip


def _insert_new_paths(connection: Connection, job_id: str, now: str) -> None:
    unknown = ~select(files.c.file_id).where(files.c.path == _incoming.c.path).exists()
    rows = select(
        _incoming.c.path, _incoming.c.size_bytes, _incoming.c.mtime_ns, literal(job_id),
        literal(FileState.REGISTERED.value), literal(now),
    ).where(unknown).order_by(_incoming.c.path)  # fmt: skip
    columns = ["path", "size_bytes", "mtime_ns", "job_id", "state", "updated_at"]
    highest = connection.execute(select(func.coalesce(func.max(files.c.file_id), 0))).scalar_one()
    connection.execute(insert(files).from_select(columns, rows))
    inserted = select(literal(job_id), files.c.file_id).where(files.c.file_id > highest, files.c.job_id == job_id)
    connection.execute(insert(job_files).from_select(["job_id", "file_id"], inserted))


def _chunks(rows: Iterable[dict[str, str | int]]) -> Iterator[list[dict[str, str | int]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, INSERT_ROWS)):
        yield chunk
