"""Filters of a search: which images of the recorded release fit them, in one query."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Column, ColumnElement, select

from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.path_index import path_between
from clip_pipeline.ledger.publishing import IdArray
from clip_pipeline.ledger.schema import files, images
from clip_pipeline.ledger.states import STANDING_FILES, FileState, ImageState

_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """What an image must be to be found; None means anything.

    path_prefix: text form; any path with the content counts, duplicates too. format: as in the ledger, `JPEG`.
    Sizes in pixels, both ends included. indexed_after (included), indexed_before (excluded): as the ledger writes
    times, UTC with milliseconds.
    """

    path_prefix: str | None = None
    format: str | None = None
    min_width: int | None = None
    max_width: int | None = None
    min_height: int | None = None
    max_height: int | None = None
    indexed_after: str | None = None
    indexed_before: str | None = None


def images_that_fit(ledger: Ledger, wanted: ImageFilter) -> IdArray:
    """Ids of the indexed images that fit, int64 [n], ascending; eight bytes an image, whatever their number."""
    query = select(images.c.image_id).where(images.c.state == ImageState.INDEXED, *_conditions(wanted))
    with ledger.read() as connection:
        found = connection.execution_options(yield_per=10_000).execute(query.order_by(images.c.image_id)).scalars()
        return np.fromiter(found, dtype=np.int64)


def prefix_range(prefix: str) -> tuple[str, str | None]:
    """The first text with this prefix and the first beyond all of them, None where nothing is: in code point order."""
    stem = prefix.rstrip(chr(_LAST))
    if not stem:
        return prefix, None
    following = ord(stem[-1]) + 1
    return prefix, stem[:-1] + chr(_SURROGATES.stop if following in _SURROGATES else following)


def _conditions(wanted: ImageFilter) -> list[ColumnElement[bool]]:
    limits: list[tuple[str | int | None, Column[Any], Callable[[Any, Any], ColumnElement[bool]]]] = [
        (wanted.format, images.c.format, operator.eq),
        (wanted.min_width, images.c.width, operator.ge),
        (wanted.max_width, images.c.width, operator.le),
        (wanted.min_height, images.c.height, operator.ge),
        (wanted.max_height, images.c.height, operator.le),
        (wanted.indexed_after, images.c.indexed_at, operator.ge),
        (wanted.indexed_before, images.c.indexed_at, operator.lt),
    ]
    conditions = [compare(column, limit) for limit, column, compare in limits if limit is not None]
    return conditions if wanted.path_prefix is None else [*conditions, _has_path_below(wanted.path_prefix)]


def _has_path_below(prefix: str) -> ColumnElement[bool]:
    first, beyond = prefix_range(prefix)
    below = path_between(files.c.path, first, beyond)
    live = files.c.state.in_((*STANDING_FILES, FileState.DUPLICATE))
    # Ids first: the range on `path` is one scan of its index, not one look for each image.
    return images.c.image_id.in_(select(files.c.image_id).where(below, live, files.c.image_id.is_not(None)))
