"""Questions with small answers: what is behind an image id, which files failed and why, what a folder holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import FailedFile
from clip_pipeline.ledger.path_index import by_path, path_between, same_path
from clip_pipeline.ledger.schema import files, images
from clip_pipeline.ledger.states import STANDING_FILES, FileState, ImageState

FETCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class ImageHit:
    """What a search result shows of an image: the path that stands for it and every other with the same content."""

    image_id: int
    sha256: str
    path: str
    duplicates: tuple[str, ...]
    format: str
    width: int
    height: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file of a folder as the ledger last saw it."""

    path: str
    file_id: int
    size_bytes: int
    mtime_ns: int


def images_by_id(ledger: Ledger, image_ids: Sequence[int]) -> dict[int, ImageHit]:
    """The live images among these ids. One that was deleted or changed since its release is left out."""
    found: dict[int, ImageHit] = {}
    with ledger.read() as connection:
        for chunk in chunks(image_ids):
            copies: dict[int, list[str]] = {}
            duplicate = files.c.image_id.in_(chunk) & (files.c.state == FileState.DUPLICATE)
            query = select(files.c.image_id, files.c.path).where(duplicate).order_by(files.c.path)
            for image_id, path in connection.execute(query).tuples():
                copies.setdefault(int(image_id), []).append(path)
            rows = connection.execute(
                select(images.c.image_id, images.c.sha256, files.c.path, images.c.format, images.c.width,
                       images.c.height, images.c.size_bytes)
                .join(files, (files.c.image_id == images.c.image_id) & files.c.state.in_(STANDING_FILES))
                .where(images.c.image_id.in_(chunk))
            )  # fmt: skip
            for image_id, sha256, path, *rest in rows.tuples():
                found[image_id] = ImageHit(image_id, sha256, path, tuple(copies.get(image_id, ())), *rest)
    return found


def newest_images(ledger: Ledger, *, most: int) -> list[ImageHit]:
    """The searchable images that were registered last, newest first."""
    with ledger.read() as connection:
        # Ids are given in order, and the index on these two columns ends in them: no more rows are read than asked for.
        newest = (
            select(images.c.image_id)
            .where(images.c.state == ImageState.INDEXED, images.c.in_release.is_(True))
            .order_by(images.c.image_id.desc())
            .limit(most)
        )
        image_ids = list(connection.execute(newest).scalars())
    found = images_by_id(ledger, image_ids)
    return [found[image_id] for image_id in image_ids if image_id in found]


def image_id_of_path(ledger: Ledger, path: str) -> int | None:
    """The live image behind one path (text form), a duplicate's too; None where that path has none."""
    live = files.c.state.in_((*STANDING_FILES, FileState.DUPLICATE))
    with ledger.read() as connection:
        return connection.execute(select(files.c.image_id).where(same_path(files.c.path, path), live)).scalar()


def failed_files(ledger: Ledger, *, code: str | None = None, most: int | None = None) -> list[FailedFile]:
    """Failed files by path, all or those with one reason code."""
    query = select(files.c.path, files.c.reason).where(files.c.state == FileState.FAILED)
    if code is not None:
        query = query.where((files.c.reason == code) | files.c.reason.startswith(f"{code}:", autoescape=True))
    with ledger.read() as connection:
        rows = connection.execute(query.order_by(files.c.path).limit(most)).tuples()
        return [FailedFile(path, reason) for path, reason in rows]


def failures_by_code(ledger: Ledger) -> dict[str, int]:
    """How many files failed for each reason code, most frequent first."""
    counts: dict[str, int] = {}
    with ledger.read() as connection:
        rows = connection.execute(
            select(files.c.reason, func.count()).where(files.c.state == FileState.FAILED).group_by(files.c.reason)
        )
        for reason, count in rows.tuples():
            code = Reason.parse(str(reason)).code
            counts[code] = counts.get(code, 0) + count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def known_files_below(ledger: Ledger, folder: str, *, after: str = "") -> Iterator[KnownFile]:
    """Files at or below `folder` (text form) that are not deleted, sorted by path, those up to `after` left out.

    Read in pages, so that neither memory nor one long transaction grows with the folder.
    """
    prefix = folder.rstrip("/") + "/"
    # The first text after every text with this prefix: "0" follows "/" in ASCII.
    beyond = prefix[:-1] + "0"
    position = max(after, prefix)
    while True:
        with ledger.read() as connection:
            rows = connection.execute(
                select(files.c.path, files.c.file_id, files.c.size_bytes, files.c.mtime_ns)
                .where(
                    files.c.path > position,
                    path_between(files.c.path, position, beyond),
                    files.c.state != FileState.DELETED,
                )
                .order_by(*by_path(files.c.path))
                .limit(FETCH_ROWS)
            ).all()
        yield from (KnownFile(*row) for row in rows)
        if len(rows) < FETCH_ROWS:
            return
        position = rows[-1][0]
