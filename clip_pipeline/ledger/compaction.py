"""The ledger's side of compacting batches: which are finished, what they hold, and the one step that swaps them.

A batch that was compacted leaves the table `batches`, so everything that looks there sees the large one alone. Its
number stays in `retired_batches`, until its files are gone and after: that is where its images went.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select, update

from clip_pipeline.core.compaction import FinishedBatch
from clip_pipeline.core.embeddings import Quarantined
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import ManifestRow
from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger, inserted_id, utc_now
from clip_pipeline.ledger.inspection_results import manifest_columns
from clip_pipeline.ledger.schema import batches, files, images, retired_batches
from clip_pipeline.ledger.states import PENDING_FILES, STANDING_FILES, VECTOR_IMAGES, FileState, ImageState


@dataclass(frozen=True, slots=True)
class BatchContents:
    """What some finished batches hold together, as the ledger has it at one moment.

    digests: of the sealed embeddings of each, None where it never had any. touched_at: of all together; a run that
    begins to work on one of them touches it. embedded: the images with a vector, and
    quarantined those without, both by image id; batch_of: in which batch the vector of each image lies.
    """

    digests: Mapping[BatchKey, str | None]
    touched_at: str
    embedded: tuple[ManifestRow, ...]
    quarantined: tuple[Quarantined, ...]
    batch_of: Mapping[int, BatchKey]


@dataclass(frozen=True, slots=True)
class SealedAs:
    """The files that a compacted batch was sealed as. embeddings_digest: None where it holds no image."""

    manifest_digest: str
    embeddings_digest: str | None


@dataclass(frozen=True, slots=True)
class RetiredBatch:
    """A batch whose images went over to another one. is_removed: its files are gone too."""

    key: BatchKey
    compacted_into: BatchKey
    is_removed: bool


def finished_batches(ledger: Ledger, *, older_than: str, fewer_than: int) -> list[FinishedBatch]:
    """The batches that nothing is left to be done for since a moment, with few images in their manifest, in order."""
    held = select(func.count()).where(images.c.batch == batches.c.number, images.c.state.in_(VECTOR_IMAGES))
    query = (
        select(batches.c.number, held.scalar_subquery())
        .where(batches.c.updated_at < older_than, func.coalesce(batches.c.images, 0) < fewer_than, _is_finished())
        .order_by(batches.c.number)
    )
    with ledger.read() as connection:
        return [FinishedBatch(BatchKey(number), count) for number, count in connection.execute(query).tuples()]


def contents_of(ledger: Ledger, keys: Sequence[BatchKey], *, older_than: str) -> BatchContents | None:
    """What these batches hold, or None where one of them is not finished any more or was touched since."""
    with ledger.read() as connection:
        contents = _contents(connection, keys)
    return contents if contents is not None and contents.touched_at < older_than else None


def reserve_batch(ledger: Ledger) -> BatchKey:
    """The key of a batch that nobody else will ever plan. The ledger knows of none by it, until `swap_batches`."""
    now = utc_now()
    with ledger.write() as connection:
        created = connection.execute(insert(batches).values(created_at=now, files=0, updated_at=now))
        number = inserted_id(created)
        connection.execute(delete(batches).where(batches.c.number == number))
    return BatchKey(number)


def swap_batches(ledger: Ledger, contents: BatchContents, *, target: BatchKey, sealed: SealedAs, run_id: str) -> bool:
    """Put the batch `target` in the place of those that `contents` was read from, unless they changed since.

    Images keep their ids and states and stay in the release; only where their vector lies is new. False: nothing was
    done.
    """
    keys, now = list(contents.digests), utc_now()
    with ledger.write() as connection:
        if _contents(connection, keys) != contents:
            return False
        numbers = [key.number for key in keys]
        planned = connection.execute(select(func.sum(batches.c.files)).where(batches.c.number.in_(numbers))).scalar()
        rows = len(contents.embedded) + len(contents.quarantined)
        connection.execute(
            insert(batches).values(
                number=target.number, created_at=now, files=int(planned or 0), images=rows, processed=rows,
                manifest_digest=sealed.manifest_digest, manifest_run_id=run_id, run_id=run_id, updated_at=now,
                embedded_manifest=sealed.manifest_digest if sealed.embeddings_digest else None,
                embeddings_digest=sealed.embeddings_digest,
            )
        )  # fmt: skip
        connection.execute(update(images).where(images.c.batch.in_(numbers)).values(batch=target.number))
        connection.execute(update(files).where(files.c.batch.in_(numbers)).values(batch=target.number))
        connection.execute(
            insert(retired_batches),
            [
                {"number": key.number, "compacted_into": target.number, "images": count, "retired_at": now}
                for key, count in _vectors_by_batch(contents).items()
            ],
        )
        connection.execute(delete(batches).where(batches.c.number.in_(numbers)))
    return True


def successor_of(ledger: Ledger, batch: BatchKey) -> BatchKey | None:
    """The batch that this one was compacted into; None where it was not."""
    with ledger.read() as connection:
        into = select(retired_batches.c.compacted_into).where(retired_batches.c.number == batch.number)
        number = connection.execute(into).scalar()
    return None if number is None else BatchKey(number)


def all_retired(ledger: Ledger) -> list[RetiredBatch]:
    """Every batch that was ever compacted into another, in order."""
    columns = (retired_batches.c.number, retired_batches.c.compacted_into, retired_batches.c.removed_at.is_not(None))
    with ledger.read() as connection:
        rows = connection.execute(select(*columns).order_by(retired_batches.c.number))
        return [RetiredBatch(BatchKey(a), BatchKey(b), bool(removed)) for a, b, removed in rows.tuples()]


def removable_batches(ledger: Ledger, *, retired_before: str) -> list[BatchKey]:
    """The batches retired before a moment whose files have not been recorded as removed, in order."""
    left = retired_batches.c.removed_at.is_(None) & (retired_batches.c.retired_at < retired_before)
    with ledger.read() as connection:
        numbers = connection.execute(select(retired_batches.c.number).where(left).order_by(retired_batches.c.number))
        return [BatchKey(number) for number in numbers.scalars()]


def record_removed(ledger: Ledger, keys: Sequence[BatchKey]) -> None:
    """The files of these retired batches are gone."""
    with ledger.write() as connection:
        for chunk in chunks([key.number for key in keys]):
            chosen = retired_batches.c.number.in_(chunk)
            connection.execute(update(retired_batches).where(chosen).values(removed_at=utc_now()))


def _is_finished() -> ColumnElement[bool]:
    """True of a batch that no file and no image waits in, whose last embeddings the recorded release holds."""
    mine, filed = images.c.batch == batches.c.number, files.c.batch == batches.c.number
    # Deleted, but shown until the next merge: registered again before that it is searchable at once, by its vector.
    leaving = images.c.in_release.is_(True) & (images.c.state != ImageState.INDEXED)
    unsettled = select(images.c.image_id).where(
        mine, or_(images.c.state.in_((ImageState.MANIFESTED, ImageState.EMBEDDED)), leaving)
    )
    waiting = select(files.c.file_id).where(filed, files.c.state.in_(PENDING_FILES))
    indexed = select(images.c.image_id).where(mine, images.c.state == ImageState.INDEXED)
    done = and_(
        batches.c.manifest_digest.is_not(None),
        or_(batches.c.embedded_manifest == batches.c.manifest_digest, ~indexed.exists()),
        batches.c.merged_digest.is_not_distinct_from(batches.c.embeddings_digest),
    )
    # Planned, and all its files left before they were inspected.
    forsaken = and_(
        batches.c.manifest_digest.is_(None),
        ~select(files.c.file_id).where(filed).exists(),
        ~select(images.c.image_id).where(mine).exists(),
    )
    return batches.c.error.is_(None) & ~unsettled.exists() & ~waiting.exists() & or_(done, forsaken)


def _contents(connection: Connection, keys: Sequence[BatchKey]) -> BatchContents | None:
    numbers = [key.number for key in keys]
    columns = (batches.c.number, batches.c.embeddings_digest, batches.c.updated_at)
    found = connection.execute(select(*columns).where(batches.c.number.in_(numbers), _is_finished())).all()
    if len(found) != len(keys):
        return None
    sealed = {number: digest for number, digest, _ in found}
    standing = (files.c.image_id == images.c.image_id) & files.c.state.in_(STANDING_FILES)
    live = connection.execute(
        select(images.c.batch, *manifest_columns())
        .join(files, standing)
        .where(images.c.batch.in_(numbers), images.c.state == ImageState.INDEXED)
        .order_by(images.c.image_id)
    ).all()
    embedded = tuple(ManifestRow(*row[1:]) for row in live)
    return BatchContents(
        digests={key: sealed[key.number] for key in keys},
        touched_at=max(touched for _, _, touched in found),
        embedded=embedded,
        quarantined=_quarantined(connection, numbers),
        batch_of={row.image_id: BatchKey(found[0]) for row, found in zip(embedded, live, strict=True)},
    )


def _quarantined(connection: Connection, numbers: Sequence[int]) -> tuple[Quarantined, ...]:
    """The failed images of the batches, each with the oldest of its files: embedding them again is their next try."""
    own = files.alias("own")
    oldest = (
        select(func.min(own.c.file_id))
        .where(own.c.image_id == images.c.image_id, own.c.state == FileState.FAILED)
        .correlate(images)
        .scalar_subquery()
    )
    rows = connection.execute(
        select(images.c.reason, *manifest_columns())
        .select_from(images.join(files, files.c.file_id == oldest))
        .where(images.c.batch.in_(numbers), images.c.state == ImageState.FAILED)
        .order_by(images.c.image_id)
    )
    return tuple(Quarantined(ManifestRow(*row[1:]), Reason.parse(str(row[0]))) for row in rows)


def _vectors_by_batch(contents: BatchContents) -> dict[BatchKey, int]:
    counts = dict.fromkeys(contents.digests, 0)
    for batch in contents.batch_of.values():
        counts[batch] += 1
    return counts
