"""Recording what the embedding of a batch gave: vectors sealed, images quarantined, progress on the way.

A run may outlive its end. Dagster fails a run whose worker was silent for long and starts another, and then the worker
thaws, or the network is back, and two runs work on one batch. So a batch belongs to the run that began it last, an
earlier one is stopped at its next report, and results are recorded only by the run whose files are those on disk.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, bindparam, func, select, update

from clip_pipeline.core.errors import ConflictError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger, utc_now
from clip_pipeline.ledger.schema import batches, files, images
from clip_pipeline.ledger.settling import settle_jobs
from clip_pipeline.ledger.states import FileState, ImageState


def begin_embedding(ledger: Ledger, batch: BatchKey, *, run_id: str) -> None:
    """The batch is this run's from now on; one that works on it already is stopped at its next report."""
    with ledger.write() as connection:
        connection.execute(
            update(batches).where(batches.c.number == batch.number).values(run_id=run_id, updated_at=utc_now())
        )


def record_progress(ledger: Ledger, batch: BatchKey, *, processed: int, run_id: str) -> None:
    """So many images of the batch are embedded or failed in the run that is going on. Cheap; call it once a second.

    Raises:
        ConflictError: another run began the batch since.
    """
    free = batches.c.run_id.is_(None) | (batches.c.run_id == batches.c.manifest_run_id)
    with ledger.write() as connection:
        recorded = connection.execute(
            update(batches)
            .where(batches.c.number == batch.number, free | (batches.c.run_id == run_id))
            .values(processed=processed, run_id=run_id, updated_at=utc_now())
        )
    if recorded.rowcount == 0:
        raise _taken_over(batch, run_id)


def record_embeddings(
    ledger: Ledger,
    batch: BatchKey,
    *,
    embedded: Sequence[int],
    quarantined: Sequence[tuple[int, Reason]],
    manifest_digest: str,
    embeddings_digest: str,
    run_id: str,
    is_still_sealed: Callable[[], bool] = lambda: True,
) -> None:
    """The embeddings of `batch` are sealed: these image ids have a vector, those are quarantined.

    An image that moved to another batch or was deleted meanwhile keeps its state. Recording twice changes nothing.
    is_still_sealed: whether the files on disk are this run's. Asked while no other run can record: of two runs that
    sealed the batch, whichever order they come in, the one whose files stayed is recorded, and the other is not.

    Raises:
        ConflictError: another run sealed the batch since; nothing is recorded.
    """
    with ledger.write() as connection:
        if not is_still_sealed():
            raise _taken_over(batch, run_id)
        _mark_embedded(connection, batch, embedded)
        _mark_quarantined(connection, batch, [(i, r) for i, r in quarantined if not r.is_about_path])
        _release_unreachable(connection, batch, [(i, r) for i, r in quarantined if r.is_about_path])
        connection.execute(
            update(batches)
            .where(batches.c.number == batch.number)
            .values(embedded_manifest=manifest_digest, embeddings_digest=embeddings_digest, run_id=run_id, error=None,
                    processed=len(embedded) + len(quarantined), updated_at=utc_now())
        )  # fmt: skip
        settle_jobs(connection)


def is_recorded(ledger: Ledger, batch: BatchKey, *, manifest_digest: str, embeddings_digest: str) -> bool:
    """True where the ledger holds these embeddings of this manifest as the batch's."""
    with ledger.read() as connection:
        row = connection.execute(
            select(batches.c.embedded_manifest, batches.c.embeddings_digest).where(batches.c.number == batch.number)
        ).first()
    return row is not None and (row.embedded_manifest, row.embeddings_digest) == (manifest_digest, embeddings_digest)


def _taken_over(batch: BatchKey, run_id: str) -> ConflictError:
    return ConflictError(
        f"batch {batch} was taken over by another run, so run {run_id} stops; Dagster counts it as lost, or somebody "
        "started the batch twice. Nothing is left to do"
    )


def _mark_embedded(connection: Connection, batch: BatchKey, image_ids: Sequence[int]) -> None:
    now = utc_now()
    for chunk in chunks(image_ids):
        waiting = (
            select(images.c.image_id)
            .where(images.c.image_id.in_(chunk), images.c.batch == batch.number)
            .where(images.c.state.in_((ImageState.MANIFESTED, ImageState.FAILED)))
        )
        healed = list(connection.execute(waiting.where(images.c.state == ImageState.FAILED)).scalars())
        ready = list(connection.execute(waiting).scalars())
        connection.execute(
            update(images).where(images.c.image_id.in_(ready)).values(state=ImageState.EMBEDDED, reason=None)
        )
        _heal_files(connection, healed, now)
        connection.execute(
            update(files)
            .where(files.c.image_id.in_(ready), files.c.state == FileState.MANIFESTED)
            .values(state=FileState.EMBEDDED, reason=None, updated_at=now)
        )


def _heal_files(connection: Connection, image_ids: Sequence[int], now: str) -> None:
    """Images that had failed and now have a vector: their oldest file stands for them, the others are duplicates."""
    failed = files.c.image_id.in_(image_ids) & (files.c.state == FileState.FAILED)
    oldest = select(func.min(files.c.file_id)).where(failed).group_by(files.c.image_id)
    standing = list(connection.execute(oldest).scalars())
    healed = {"reason": None, "updated_at": now}
    connection.execute(update(files).where(files.c.file_id.in_(standing)).values(state=FileState.EMBEDDED, **healed))
    connection.execute(update(files).where(failed).values(state=FileState.DUPLICATE, **healed))


def _mark_quarantined(connection: Connection, batch: BatchKey, failures: Sequence[tuple[int, Reason]]) -> None:
    """The content is at fault: every file that holds it fails with the same reason."""
    mine = _of_batch(connection, batch, failures)
    if not mine:
        return
    connection.execute(
        update(images)
        .where(images.c.image_id == bindparam("one"))
        .values(state=ImageState.FAILED, reason=bindparam("why")),
        mine,
    )
    connection.execute(
        update(files)
        .where(files.c.image_id == bindparam("one"))
        .values(state=FileState.FAILED, reason=bindparam("why"), updated_at=utc_now()),
        mine,
    )


def _release_unreachable(connection: Connection, batch: BatchKey, failures: Sequence[tuple[int, Reason]]) -> None:
    """The standing file is at fault, its content may be fine: it fails, and its duplicates are planned again."""
    mine = _of_batch(connection, batch, failures)
    if not mine:
        return
    now = utc_now()
    connection.execute(
        update(files)
        .where(files.c.image_id == bindparam("one"), files.c.state == FileState.DUPLICATE)
        .values(state=FileState.REGISTERED, image_id=None, batch=None, updated_at=now),
        mine,
    )
    _mark_quarantined(connection, batch, failures)


def _of_batch(
    connection: Connection, batch: BatchKey, failures: Sequence[tuple[int, Reason]]
) -> list[dict[str, object]]:
    """The failures of images that this batch still holds and that nobody deleted, as parameters."""
    held: set[int] = set()
    for chunk in chunks([image_id for image_id, _ in failures]):
        rows = connection.execute(
            select(images.c.image_id)
            .where(images.c.image_id.in_(chunk), images.c.batch == batch.number)
            .where(images.c.state != ImageState.DELETED)
        )
        held |= set(rows.scalars())
    return [{"one": image_id, "why": str(reason)} for image_id, reason in failures if image_id in held]
