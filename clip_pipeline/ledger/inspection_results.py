"""Recording what the inspection of a batch found: contents get image ids, duplicates are linked, failures explained.

Recording the same results twice changes nothing, so a run that dies after it can simply run again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, insert, select, update

from clip_pipeline.core.inspection import Inspected
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import ManifestRow
from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger, inserted_id, utc_now
from clip_pipeline.ledger.removal import detach_images
from clip_pipeline.ledger.schema import batches, files, images, jobs
from clip_pipeline.ledger.settling import settle_jobs
from clip_pipeline.ledger.states import LIVE_IMAGES, STANDING_FILES, FileState, ImageState


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A file that a batch is to inspect."""

    file_id: int
    path: str


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """Where the files of one batch stand after inspection."""

    images: int
    duplicates: int
    failed: int


@dataclass(slots=True)
class _KnownImage:
    image_id: int
    state: str
    in_release: bool
    standing_file: int | None


def files_of_batch(ledger: Ledger, batch: BatchKey) -> list[BatchFile]:
    """The files that a batch inspects, by file_id."""
    with ledger.read() as connection:
        rows = connection.execute(
            select(files.c.file_id, files.c.path).where(files.c.batch == batch.number).order_by(files.c.file_id)
        )
        return [BatchFile(*row) for row in rows.tuples()]


def record_inspection(
    ledger: Ledger, batch: BatchKey, results: Mapping[int, Inspected | Reason]
) -> tuple[BatchSummary, list[ManifestRow]]:
    """Record the result of each inspected file (by file_id) and return the rows of the batch's manifest.

    A file that left the batch meanwhile, because it was registered anew or deleted, is passed over.
    """
    with ledger.write() as connection:
        current = _files_now(connection, batch)
        _record_failures(connection, {i: r for i, r in results.items() if i in current and isinstance(r, Reason)})
        found = {i: r for i, r in results.items() if i in current and isinstance(r, Inspected)}
        _record_contents(connection, batch, found)
        rows = _manifest_rows(connection, batch)
        summary = _summarise(connection, batch, images=len(rows))
        settle_jobs(connection)
    return summary, rows


def record_manifest(ledger: Ledger, batch: BatchKey, *, digest: str, rows: int, run_id: str) -> None:
    """The manifest of `batch` is sealed on disk under this digest.

    Where one of its images still lacks a vector the batch counts as not embedded, though its manifest be the same:
    that is how materializing a manifest again gives its failed images another try.
    """
    with ledger.write() as connection:
        values = {
            "manifest_digest": digest,
            "images": rows,
            "run_id": run_id,
            "manifest_run_id": run_id,
            "error": None,
            "updated_at": utc_now(),
        }
        awaited = select(images.c.image_id).where(
            images.c.batch == batch.number, images.c.state == ImageState.MANIFESTED
        )
        if connection.execute(select(awaited.exists())).scalar_one():
            values |= {"embedded_manifest": None, "processed": 0}
        connection.execute(update(batches).where(batches.c.number == batch.number).values(**values))
        _mark_jobs_started(connection, batch)


def _mark_jobs_started(connection: Connection, batch: BatchKey) -> None:
    starting = select(files.c.job_id).where(files.c.batch == batch.number)
    connection.execute(
        update(jobs).where(jobs.c.job_id.in_(starting), jobs.c.started_at.is_(None)).values(started_at=utc_now())
    )


def _files_now(connection: Connection, batch: BatchKey) -> set[int]:
    return set(connection.execute(select(files.c.file_id).where(files.c.batch == batch.number)).scalars())


def _record_failures(connection: Connection, reasons: Mapping[int, Reason]) -> None:
    if not reasons:
        return
    _detach(connection, list(reasons))
    now = utc_now()
    connection.execute(
        update(files)
        .where(files.c.file_id == bindparam("one"))
        .values(state=FileState.FAILED, reason=bindparam("why"), updated_at=now),
        [{"one": file_id, "why": str(reason)} for file_id, reason in reasons.items()],
    )


def _record_contents(connection: Connection, batch: BatchKey, found: Mapping[int, Inspected]) -> None:
    """Link each file to the image of its content, making images that are new, lowest file_id first."""
    _detach_changed(connection, found)
    known = _known_images(connection, sorted({f.sha256 for f in found.values()}))
    updates: list[dict[str, object]] = []
    for file_id, seen in sorted(found.items()):
        image = known.get(seen.sha256)
        if image is None:
            image = known[seen.sha256] = _create_image(connection, batch, seen)
        state = _state_of_file(connection, batch, image, file_id=file_id, seen=seen)
        updates.append(
            {"one": file_id, "image": image.image_id, "to": state, "size": seen.size_bytes, "mtime": seen.mtime_ns}
        )
    if updates:
        connection.execute(
            update(files)
            .where(files.c.file_id == bindparam("one"))
            .values(image_id=bindparam("image"), state=bindparam("to"), size_bytes=bindparam("size"),
                    mtime_ns=bindparam("mtime"), reason=None, updated_at=utc_now()),
            updates,
        )  # fmt: skip


def _state_of_file(
    connection: Connection, batch: BatchKey, image: _KnownImage, *, file_id: int, seen: Inspected
) -> str:
    """The state for a file of this content; revives an image that had failed or was deleted."""
    if image.state not in LIVE_IMAGES:
        _revive_image(connection, batch, image, seen=seen)
    if image.standing_file in (None, file_id):
        image.standing_file = file_id
        return image.state
    return FileState.DUPLICATE


def _revive_image(connection: Connection, batch: BatchKey, image: _KnownImage, *, seen: Inspected) -> None:
    """A deleted image whose vector is still in the published release is searchable again at once, without work;
    any other is embedded again, with this batch."""
    searchable = image.state == ImageState.DELETED and image.in_release
    image.state = ImageState.INDEXED if searchable else ImageState.MANIFESTED
    values: dict[str, object] = {"state": image.state, "reason": None}
    if not searchable:
        values |= {"batch": batch.number, "format": seen.format, "width": seen.width, "height": seen.height}
    connection.execute(update(images).where(images.c.image_id == image.image_id).values(**values))


def _create_image(connection: Connection, batch: BatchKey, seen: Inspected) -> _KnownImage:
    created = connection.execute(
        insert(images).values(
            sha256=seen.sha256, size_bytes=seen.size_bytes, format=seen.format, width=seen.width, height=seen.height,
            orientation=seen.orientation, batch=batch.number, state=ImageState.MANIFESTED, in_release=False,
        )
    )  # fmt: skip
    return _KnownImage(inserted_id(created), ImageState.MANIFESTED, False, None)


def _known_images(connection: Connection, digests: Sequence[str]) -> dict[str, _KnownImage]:
    known: dict[str, _KnownImage] = {}
    for chunk in chunks(digests):
        rows = connection.execute(
            select(images.c.sha256, images.c.image_id, images.c.state, images.c.in_release, files.c.file_id)
            .outerjoin(files, (files.c.image_id == images.c.image_id) & files.c.state.in_(STANDING_FILES))
            .where(images.c.sha256.in_(chunk))
        )
        known |= {sha256: _KnownImage(*rest) for sha256, *rest in rows.tuples()}
    return known


def _detach_changed(connection: Connection, found: Mapping[int, Inspected]) -> None:
    """Files that stood for another content when this batch was inspected before."""
    linked: dict[int, str] = {}
    for chunk in chunks(list(found)):
        rows = connection.execute(
            select(files.c.file_id, images.c.sha256)
            .join(images, images.c.image_id == files.c.image_id)
            .where(files.c.file_id.in_(chunk))
        )
        linked |= dict(rows.tuples().all())
    _detach(connection, [i for i, sha256 in linked.items() if found[i].sha256 != sha256])


def _detach(connection: Connection, file_ids: Sequence[int]) -> None:
    for chunk in chunks(file_ids):
        detach_images(connection, select(files.c.file_id).where(files.c.file_id.in_(chunk)))


def manifest_columns() -> tuple[ColumnElement[Any], ...]:
    """What a query over images and their files selects to make the rows of a manifest, in the order of its fields."""
    return (
        images.c.image_id, images.c.sha256, files.c.path, images.c.size_bytes, files.c.mtime_ns, images.c.format,
        images.c.width, images.c.height, images.c.orientation,
    )  # fmt: skip


def _manifest_rows(connection: Connection, batch: BatchKey) -> list[ManifestRow]:
    rows = connection.execute(
        select(*manifest_columns())
        .join(files, (files.c.image_id == images.c.image_id) & files.c.state.in_(STANDING_FILES))
        .where(images.c.batch == batch.number, images.c.state.in_(LIVE_IMAGES))
        .order_by(images.c.image_id)
    )
    return [ManifestRow(*row) for row in rows]


def _summarise(connection: Connection, batch: BatchKey, *, images: int) -> BatchSummary:
    states = list(connection.execute(select(files.c.state).where(files.c.batch == batch.number)).scalars())
    return BatchSummary(images, states.count(FileState.DUPLICATE), states.count(FileState.FAILED))
