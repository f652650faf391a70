"""The ledger's side of a release: which images should be in it, what is outstanding, and what a published one holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, bindparam, func, insert, select, update

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger, utc_now
from clip_pipeline.ledger.schema import batches, files, images, releases
from clip_pipeline.ledger.settling import settle_jobs
from clip_pipeline.ledger.states import VECTOR_IMAGES, FileState, ImageState

IdArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What the recorded release lacks. batches: those whose sealed embeddings it does not hold, with their digests;
    embedded: images that await it; leaving: images it still shows that were deleted or failed since."""

    batches: dict[BatchKey, str]
    embedded: int
    leaving: int

    @property
    def is_empty(self) -> bool:
        """True where the release is up to date."""
        return not (self.batches or self.embedded or self.leaving)


def outstanding(ledger: Ledger) -> Outstanding:
    """What the next merge would change, from indexed counts: cheap at any size."""
    with ledger.read() as connection:
        unmerged = connection.execute(
            select(batches.c.number, batches.c.embeddings_digest)
            .where(batches.c.embeddings_digest.is_not(None))
            .where(batches.c.merged_digest.is_distinct_from(batches.c.embeddings_digest))
            .order_by(batches.c.number)
        ).tuples()
        waiting = {BatchKey(number): str(digest) for number, digest in unmerged}
        return Outstanding(waiting, _count(connection, ImageState.EMBEDDED), _count_leaving(connection))


def live_vectors(ledger: Ledger) -> tuple[IdArray, IdArray]:
    """Ids of all images that have a vector, ascending, and the number of the batch that holds it: two int64 [n]."""
    with ledger.read() as connection:
        rows = connection.execute(
            select(images.c.image_id, images.c.batch)
            .where(images.c.state.in_(VECTOR_IMAGES))
            .order_by(images.c.image_id)
        ).all()
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    return np.ascontiguousarray(table[:, 0]), np.ascontiguousarray(table[:, 1])


def record_release(
    ledger: Ledger, encoder_key: str, *, number: int, live: IdArray, merged: Mapping[BatchKey, str], run_id: str
) -> None:
    """The release `number` is published and shows exactly the images `live`, int64 [n], ascending.

    merged: the digests of the sealed embeddings that were on disk when the release was planned. Images that were
    embedded, deleted or revived since keep a state that says so, and stay outstanding.
    """
    with ledger.write() as connection:
        shown = _image_ids(connection, images.c.in_release.is_(True))
        # Failed and healed between two merges: shown all the while, and yet to be marked as indexed again.
        awaited = _image_ids(connection, images.c.state == ImageState.EMBEDDED)
        _leave(connection, np.setdiff1d(shown, live, assume_unique=True))
        _enter(connection, np.union1d(np.setdiff1d(live, shown, assume_unique=True), np.intersect1d(live, awaited)))
        _record_merged_batches(connection, merged)
        _record_number(connection, encoder_key, number=number, images_count=len(live), run_id=run_id)
        settle_jobs(connection)


def record_rebuilt_release(ledger: Ledger, encoder_key: str, *, number: int, images_count: int, run_id: str) -> None:
    """The release `number` is published and shows what the one before it showed: no image enters or leaves."""
    with ledger.write() as connection:
        _record_number(connection, encoder_key, number=number, images_count=images_count, run_id=run_id)


def recorded_release(ledger: Ledger, encoder_key: str) -> int | None:
    """The number of the newest release that the ledger knows of."""
    with ledger.read() as connection:
        newest = select(func.max(releases.c.number)).where(releases.c.encoder_key == encoder_key)
        return connection.execute(newest).scalar_one()


def _image_ids(connection: Connection, condition: ColumnElement[bool]) -> IdArray:
    chosen = connection.execute(select(images.c.image_id).where(condition).order_by(images.c.image_id)).scalars()
    return np.fromiter(chosen, dtype=np.int64)


def _leave(connection: Connection, image_ids: IdArray) -> None:
    now = utc_now()
    for chosen in chunks(image_ids.tolist()):
        connection.execute(update(images).where(images.c.image_id.in_(chosen)).values(in_release=False))
        # Revived while the release was being built: it has to be shown again, by the next one.
        connection.execute(
            update(images)
            .where(images.c.image_id.in_(chosen), images.c.state == ImageState.INDEXED)
            .values(state=ImageState.EMBEDDED)
        )
        connection.execute(
            update(files)
            .where(files.c.image_id.in_(chosen), files.c.state == FileState.INDEXED)
            .values(state=FileState.EMBEDDED, updated_at=now)
        )


def _enter(connection: Connection, image_ids: IdArray) -> None:
    now = utc_now()
    for chosen in chunks(image_ids.tolist()):
        connection.execute(update(images).where(images.c.image_id.in_(chosen)).values(in_release=True))
        connection.execute(
            update(images)
            .where(images.c.image_id.in_(chosen), images.c.state == ImageState.EMBEDDED)
            .values(state=ImageState.INDEXED, indexed_at=now)
        )
        connection.execute(
            update(files)
            .where(files.c.image_id.in_(chosen), files.c.state == FileState.EMBEDDED)
            .values(state=FileState.INDEXED, updated_at=now)
        )


def _record_merged_batches(connection: Connection, merged: Mapping[BatchKey, str]) -> None:
    rows = [{"one": key.number, "digest": digest} for key, digest in merged.items()]
    if rows:
        connection.execute(
            update(batches)
            .where(batches.c.number == bindparam("one"))
            .where(batches.c.merged_digest.is_distinct_from(bindparam("digest")))
            .values(merged_digest=bindparam("digest")),
            rows,
        )


def _record_number(connection: Connection, key: str, *, number: int, images_count: int, run_id: str) -> None:
    known = select(releases.c.number).where(releases.c.encoder_key == key, releases.c.number == number)
    if connection.execute(known).first() is None:
        connection.execute(
            insert(releases).values(
                encoder_key=key, number=number, images=images_count, recorded_at=utc_now(), run_id=run_id
            )
        )


def _count(connection: Connection, state: ImageState) -> int:
    return connection.execute(select(func.count()).select_from(images).where(images.c.state == state)).scalar_one()


def _count_leaving(connection: Connection) -> int:
    gone = images.c.state.not_in(VECTOR_IMAGES) & images.c.in_release.is_(True)
    return connection.execute(select(func.count()).select_from(images).where(gone)).scalar_one()
