"""Registration: one set-based transaction that turns a list of paths into what is new, changed, known or gone."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    MetaData,
    SmallInteger,
    Table,
    and_,
    case,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy import text as sql_text
from sqlalchemy.schema import CreateTable, DropTable

from clip_pipeline.core.errors import ConflictError
from clip_pipeline.core.keys import new_job_id
from clip_pipeline.ledger.bulk import load_rows
from clip_pipeline.ledger.database import Ledger, utc_now
from clip_pipeline.ledger.engines import POSTGRESQL
from clip_pipeline.ledger.path_index import same_path
from clip_pipeline.ledger.removal import delete_files, detach_images
from clip_pipeline.ledger.schema import PathText, files, job_files, jobs
from clip_pipeline.ledger.settling import settle_jobs
from clip_pipeline.ledger.states import KNOWN_FILES, PENDING_FILES, FileState

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


class _Standing(IntEnum):
    """How an incoming path that is known stands to what is known of it."""

    DONE = 1
    UNDER_WAY = 2
    TO_REPEAT = 3


_incoming = Table(
    "incoming_files",
    MetaData(),
    Column("path", PathText, nullable=False, comment="each once; no index, which a long one would not fit in"),
    Column("size_bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),
    Column("file_id", BigInteger, comment="of the known file; null: the path is new"),
    Column("standing", SmallInteger),
    prefixes=["TEMPORARY"],
)

_unchanged = and_(files.c.size_bytes == _incoming.c.size_bytes, files.c.mtime_ns == _incoming.c.mtime_ns)
_standing = case(
    (and_(_unchanged, files.c.state.in_(KNOWN_FILES)), _Standing.DONE),
    (and_(_unchanged, files.c.state.in_(PENDING_FILES)), _Standing.UNDER_WAY),
    else_=_Standing.TO_REPEAT,
)


def register_files(ledger: Ledger, facts: Iterable[FileFacts], *, submission: Submission) -> Registration:
    """Register every path of one submission, in one transaction, and open a job for it.

    New, changed, failed and deleted files are queued for this job; those that another job has under way are waited
    for; those indexed and unchanged are only counted. A path given twice counts once, its last facts win. A repeated
    idempotency key gives what became of it the first time.

    Raises:
        ConflictError: the idempotency key was used for another request.
    """
    # Before the lock is taken: facts may come from a walk that takes minutes.
    distinct = _distinct(facts)
    with ledger.write() as connection:
        # Asked under the write lock: of two equal requests at once, the second finds the job of the first.
        earlier = _repeated(connection, submission)
        return earlier or _register(connection, distinct, submission=submission)


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
        return _register(connection, _distinct(found), submission=submission) if found else None


def _repeated(connection: Connection, submission: Submission) -> Registration | None:
    if submission.idempotency_key is None:
        return None
    row = connection.execute(select(jobs).where(jobs.c.idempotency_key == submission.idempotency_key)).first()
    if row is None:
        return None
    if row.request_digest != submission.request_digest:
        raise ConflictError(
            f"this idempotency key was used for another request, job {row.job_id}; "
            "send the same request again, or choose another key"
        )
    pending = row.total_images - row.new_images_count
    return Registration(row.job_id, row.images_count, row.new_images_count, row.already_indexed_count, pending)


def _distinct(facts: Iterable[FileFacts]) -> Collection[FileFacts]:
    return {fact.path: fact for fact in facts}.values()


def _register(connection: Connection, facts: Collection[FileFacts], *, submission: Submission) -> Registration:
    job_id, now = new_job_id(), utc_now()
    # No `finally` that drops it: a transaction that fails takes it along, and PostgreSQL takes no statement after that.
    connection.execute(CreateTable(_incoming))
    _load_incoming(connection, facts)
    _compare_with_known(connection)
    total = len(facts)
    known, pending = _count(connection, _Standing.DONE), _count(connection, _Standing.UNDER_WAY)
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
    connection.execute(DropTable(_incoming))
    settle_jobs(connection)
    return Registration(job_id, total, queued, known + pending, pending)


def _load_incoming(connection: Connection, facts: Collection[FileFacts]) -> None:
    rows: Iterable[Sequence[object]] = ((fact.path, fact.size_bytes, fact.mtime_ns) for fact in facts)
    load_rows(connection, _incoming, ("path", "size_bytes", "mtime_ns"), rows)
    if connection.dialect.name == POSTGRESQL:
        _prepare_planner(connection)


def _prepare_planner(connection: Connection) -> None:
    """Have PostgreSQL look each path up in the index rather than read all files, and sort in memory."""
    # It knows nothing of a table just made. A page in any order costs four times one in sequence for it, which holds
    # of disks that turn: with that it would read ten million files to find a hundred thousand.
    connection.execute(sql_text("ANALYZE incoming_files"))
    for setting, value in (("random_page_cost", "1.1"), ("work_mem", "64MB")):
        connection.execute(select(func.set_config(setting, value, literal(True))))


def _compare_with_known(connection: Connection) -> None:
    # The one query that looks paths up, by the paths alone: given a state to look for as well, SQLite goes through
    # all files of that state, 170 ms at a million.
    connection.execute(
        update(_incoming)
        .where(same_path(files.c.path, _incoming.c.path))
        .values(file_id=files.c.file_id, standing=_standing)
    )


def _count(connection: Connection, standing: _Standing) -> int:
    found = select(func.count()).select_from(_incoming).where(_incoming.c.standing == standing)
    return connection.execute(found).scalar_one()


def _join_pending(connection: Connection, job_id: str) -> None:
    under_way = select(literal(job_id), _incoming.c.file_id).where(_incoming.c.standing == _Standing.UNDER_WAY)
    connection.execute(insert(job_files).from_select(["job_id", "file_id"], under_way))


def _requeue_known_paths(connection: Connection, job_id: str, now: str) -> None:
    """Files whose path is known but that need work again: changed, failed before, or deleted and back."""
    changing = select(_incoming.c.file_id).where(_incoming.c.standing == _Standing.TO_REPEAT)
    waited_for = changing.with_only_columns(literal(job_id), _incoming.c.file_id)
    connection.execute(insert(job_files).from_select(["job_id", "file_id"], waited_for))
    detach_images(connection, changing)
    connection.execute(
        update(files)
        .where(files.c.file_id == _incoming.c.file_id, _incoming.c.standing == _Standing.TO_REPEAT)
        .values(size_bytes=_incoming.c.size_bytes, mtime_ns=_incoming.c.mtime_ns, job_id=job_id, batch=None,
                image_id=None, state=FileState.REGISTERED, reason=None, updated_at=now)
    )  # fmt: skip


def _insert_new_paths(connection: Connection, job_id: str, now: str) -> None:
    rows = select(
        _incoming.c.path, _incoming.c.size_bytes, _incoming.c.mtime_ns, literal(job_id),
        literal(FileState.REGISTERED.value), literal(now),
    ).where(_incoming.c.file_id.is_(None)).order_by(_incoming.c.path)  # fmt: skip
    columns = ["path", "size_bytes", "mtime_ns", "job_id", "state", "updated_at"]
    highest = connection.execute(select(func.coalesce(func.max(files.c.file_id), 0))).scalar_one()
    connection.execute(insert(files).from_select(columns, rows))
    inserted = select(literal(job_id), files.c.file_id).where(files.c.file_id > highest, files.c.job_id == job_id)
    connection.execute(insert(job_files).from_select(["job_id", "file_id"], inserted))
