"""Taking files away from images: what a changed, vanished or removed file leaves behind.

An image lives as long as a file stands for it. When the standing file goes, a duplicate is promoted in its place;
without one the image is deleted, and the next merge takes it out of the results.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, Select, func, select, update

from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import utc_now
from clip_pipeline.ledger.schema import files, images
from clip_pipeline.ledger.states import LIVE_IMAGES, STANDING_FILES, FileState, ImageState


def delete_files(connection: Connection, file_ids: Sequence[int]) -> None:
    """Mark files as deleted and let go of their images. A file already deleted stays as it is."""
    for chunk in chunks(file_ids):
        chosen = select(files.c.file_id).where(files.c.file_id.in_(chunk))
        detach_images(connection, chosen)
        connection.execute(
            update(files)
            .where(files.c.file_id.in_(chosen.scalar_subquery()), files.c.state != FileState.DELETED)
            .values(state=FileState.DELETED, reason=None, image_id=None, batch=None, updated_at=utc_now())
        )


def detach_images(connection: Connection, file_ids: Select[tuple[int]]) -> None:
    """Take the chosen files away from their images; the caller gives them their new state.

    `file_ids` must keep selecting the same files while this runs: it may not depend on `files.image_id`.
    """
    leaving = select(files.c.image_id).where(files.c.file_id.in_(file_ids), files.c.image_id.is_not(None))
    orphans = list(connection.execute(leaving.where(files.c.state.in_(STANDING_FILES))).scalars())
    failed = list(connection.execute(leaving.where(files.c.state == FileState.FAILED)).scalars())
    connection.execute(
        update(files).where(files.c.file_id.in_(file_ids), files.c.image_id.is_not(None)).values(image_id=None)
    )
    promote_duplicates(connection, orphans)
    forget_failed_images(connection, failed)


def promote_duplicates(connection: Connection, image_ids: Sequence[int]) -> None:
    """Give each image that lost its standing file the oldest of its duplicates; delete those that have none."""
    now = utc_now()
    for chosen in chunks(image_ids):
        state_of = select(images.c.state).where(images.c.image_id == files.c.image_id).scalar_subquery()
        oldest = (
            select(func.min(files.c.file_id))
            .where(files.c.image_id.in_(chosen), files.c.state == FileState.DUPLICATE)
            .group_by(files.c.image_id)
        )
        connection.execute(update(files).where(files.c.file_id.in_(oldest)).values(state=state_of, updated_at=now))
        standing = select(files.c.image_id).where(files.c.image_id.in_(chosen), files.c.state.in_(STANDING_FILES))
        connection.execute(
            update(images)
            .where(images.c.image_id.in_(chosen), images.c.image_id.not_in(standing), images.c.state.in_(LIVE_IMAGES))
            .values(state=ImageState.DELETED)
        )


def forget_failed_images(connection: Connection, image_ids: Sequence[int]) -> None:
    """Mark as deleted the failed images among these that no file refers to any more."""
    for chosen in chunks(image_ids):
        referred = select(files.c.image_id).where(files.c.image_id.in_(chosen))
        connection.execute(
            update(images)
            .where(images.c.image_id.in_(chosen), images.c.image_id.not_in(referred))
            .where(images.c.state == ImageState.FAILED)
            .values(state=ImageState.DELETED, reason=None)
        )
