"""Where is one path and why: everything the ledger knows of a file, and removing files by their paths."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.path_index import path_among, same_path
from clip_pipeline.ledger.removal import delete_files
from clip_pipeline.ledger.schema import batches, files, images, job_files
from clip_pipeline.ledger.settling import settle_jobs
from clip_pipeline.ledger.states import STANDING_FILES, FileState

JOBS_SHOWN = 100
COPIES_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """One file. batch, run_id: where its content was, or is being, worked on. stands_for_it: the path that search
    results show for this content; duplicates: the other paths that hold it. in_release: the recorded release shows
    it. job_ids: the jobs that waited for it, newest first."""

    path: str
    state: str
    reason: str | None
    updated_at: str
    size_bytes: int
    batch: BatchKey | None
    run_id: str | None
    image_id: int | None
    sha256: str | None
    format: str | None
    width: int | None
    height: int | None
    indexed_at: str | None
    in_release: bool
    stands_for_it: str | None
    duplicates: tuple[str, ...]
    job_ids: tuple[str, ...]


def whereabouts(ledger: Ledger, path: str) -> Whereabouts:
    """Everything known of the file at `path` (text form).

    Raises:
        NotFoundError: nobody ever registered this path.
    """
    with ledger.read() as connection:
        row = connection.execute(
            select(files, images.c.sha256, images.c.format, images.c.width, images.c.height, images.c.indexed_at,
                   images.c.in_release, images.c.batch.label("image_batch"))
            .outerjoin(images, images.c.image_id == files.c.image_id)
            .where(same_path(files.c.path, path))
        ).first()  # fmt: skip
        if row is None:
            raise NotFoundError(f"nothing is registered at {path}; register it with POST /api/v1/index/add-images")
        batch = row.batch if row.image_batch is None else row.image_batch
        standing, copies = _holders(connection, row.image_id)
        live = row.state in (*STANDING_FILES, FileState.DUPLICATE)
        return Whereabouts(
            row.path, row.state, row.reason, row.updated_at, row.size_bytes,
            None if batch is None else BatchKey(batch), _run_of(connection, batch), row.image_id, row.sha256,
            row.format, row.width, row.height, row.indexed_at, bool(live and row.in_release), standing,
            tuple(copy for copy in copies if copy != path), _jobs_of(connection, row.file_id),
        )  # fmt: skip


def remove_paths(ledger: Ledger, paths: Sequence[str]) -> tuple[int, list[str]]:
    """Delete the files at these paths (text form), in one transaction.

    Returns how many were deleted and, in the order given, the paths that are not registered or deleted already.
    """
    distinct = list(dict.fromkeys(paths))
    with ledger.write() as connection:
        found: dict[str, int] = {}
        for chunk in chunks(distinct):
            present = select(files.c.path, files.c.file_id).where(
                path_among(files.c.path, chunk), files.c.state != FileState.DELETED
            )
            found |= dict(connection.execute(present).tuples().all())
        delete_files(connection, list(found.values()))
        settle_jobs(connection)
    return len(found), [path for path in distinct if path not in found]


def _holders(connection: Connection, image_id: int | None) -> tuple[str | None, list[str]]:
    """The path that stands for an image, and the first of its other paths."""
    if image_id is None:
        return None, []
    mine = select(files.c.path).where(files.c.image_id == image_id)
    standing = connection.execute(mine.where(files.c.state.in_(STANDING_FILES)).limit(1)).scalar()
    copies = mine.where(files.c.state == FileState.DUPLICATE).order_by(files.c.path).limit(COPIES_SHOWN)
    return standing, list(connection.execute(copies).scalars())


def _run_of(connection: Connection, batch: int | None) -> str | None:
    return connection.execute(select(batches.c.run_id).where(batches.c.number == batch)).scalar()


def _jobs_of(connection: Connection, file_id: int) -> tuple[str, ...]:
    newest = (
        select(job_files.c.job_id)
        .where(job_files.c.file_id == file_id)
        .order_by(job_files.c.job_id.desc())
        .limit(JOBS_SHOWN)
    )
    return tuple(connection.execute(newest).scalars())
