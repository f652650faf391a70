"""Does every total add up? Queries that count what must not exist, and the counts people look at."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Select, func, select

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.schema import files, images
from clip_pipeline.ledger.states import LIVE_IMAGES, STANDING_FILES, FileState, ImageState


@dataclass(frozen=True, slots=True)
class Balance:
    """files, images: rows by state. faults: what must not exist, in words, with how many; empty when all is well."""

    files: dict[str, int]
    images: dict[str, int]
    faults: dict[str, int]

    @property
    def holds(self) -> bool:
        """True where nothing is amiss."""
        return not self.faults


def balance(ledger: Ledger) -> Balance:
    """Every count and every fault, read in one transaction."""
    with ledger.read() as connection:
        by_file = _by_state(connection, files.c.state, tuple(FileState))
        by_image = _by_state(connection, images.c.state, tuple(ImageState))
        counted = {name: connection.execute(query).scalar_one() for name, query in _faults().items()}
    faults = {name: n for name, n in counted.items() if n}
    unknown = {f"files in unknown state {s}": n for s, n in by_file.items() if s not in set(FileState)}
    return Balance(by_file, by_image, faults | unknown)


def _by_state(connection: Connection, column: ColumnElement[str], states: tuple[str, ...]) -> dict[str, int]:
    rows = connection.execute(select(column, func.count()).group_by(column)).tuples()
    return {str(state): 0 for state in states} | {str(state): n for state, n in rows}


def _faults() -> dict[str, Select[tuple[int]]]:
    """Name of each fault -> the query that counts its cases."""
    standing = files.c.state.in_(STANDING_FILES)
    joined = files.join(images, images.c.image_id == files.c.image_id)
    standing_of_image = select(files.c.file_id).where(files.c.image_id == images.c.image_id, standing)
    twice = (
        select(files.c.image_id).where(standing).group_by(files.c.image_id).having(func.count() > 1).subquery("twice")
    )
    total = select(func.count())
    live = images.c.state.in_(LIVE_IMAGES)
    return {
        "images in work or indexed that no file stands for": total.select_from(images).where(
            live, ~standing_of_image.exists()
        ),
        "images that several files stand for": total.select_from(twice),
        "files whose state differs from their image's": total.select_from(joined).where(
            standing, files.c.state != images.c.state
        ),
        "files in work or indexed without an image": total.select_from(files).where(
            files.c.state.in_((*STANDING_FILES, FileState.DUPLICATE)), files.c.image_id.is_(None)
        ),
        "duplicates of an image that is not live": total.select_from(joined).where(
            files.c.state == FileState.DUPLICATE, ~live
        ),
        "failed files without a reason": total.select_from(files).where(
            files.c.state == FileState.FAILED, files.c.reason.is_(None)
        ),
        "failed images without a reason": total.select_from(images).where(
            images.c.state == ImageState.FAILED, images.c.reason.is_(None)
        ),
        "registered or deleted files that still hold an image": total.select_from(files).where(
            files.c.state.in_((FileState.REGISTERED, FileState.DELETED)), files.c.image_id.is_not(None)
        ),
        "indexed images that the recorded release does not show": total.select_from(images).where(
            images.c.state == ImageState.INDEXED, images.c.in_release.is_(False)
        ),
    }
