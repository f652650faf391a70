"""Which batches become one: a pure decision. Dagster looks at every partition, so many small ones cost every tick.

A group is made only where it fills half a batch, or takes the place of many of which none is most of it: so an image is
copied once for each time that its batch doubles, and once more when that becomes a large one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clip_pipeline.core.keys import BatchKey

SMALL_SHARE = 0.5
"""A batch with less than this share of a full one is small."""
MANY_BATCHES = 8
MOST_BATCHES = 500
"""Of one group; a batch whose images are all gone counts for nothing but its number."""


@dataclass(frozen=True, slots=True)
class FinishedBatch:
    """A batch that nothing is left to be done for. images: those whose vector it holds."""

    key: BatchKey
    images: int


def is_small(images: int, *, batch_size: int) -> bool:
    """Whether a batch of so many images is worth compacting."""
    return images < SMALL_SHARE * batch_size


def groups_to_compact(finished: Sequence[FinishedBatch], *, batch_size: int) -> list[tuple[FinishedBatch, ...]]:
    """The small ones among the batches, in their order, in groups of at most `batch_size` images."""
    small = [batch for batch in finished if is_small(batch.images, batch_size=batch_size)]
    groups: list[tuple[FinishedBatch, ...]] = []
    for group in _consecutive(small, batch_size=batch_size):
        if len(group) > 1 and not is_small(_images(group), batch_size=batch_size):
            groups.append(group)
        elif len(many := _without_giants(group)) >= MANY_BATCHES:
            groups.append(many)
    return groups


def _consecutive(small: Sequence[FinishedBatch], *, batch_size: int) -> Iterator[tuple[FinishedBatch, ...]]:
    group: list[FinishedBatch] = []
    for batch in small:
        if _images(group) + batch.images > batch_size or len(group) == MOST_BATCHES:
            yield tuple(group)
            group = []
        group.append(batch)
    yield tuple(group)


def _without_giants(group: tuple[FinishedBatch, ...]) -> tuple[FinishedBatch, ...]:
    """The group without batches that are more than half of what is left, for they would be copied for little."""
    while group:
        largest = max(group, key=lambda batch: batch.images)
        if 2 * largest.images <= _images(group):
            return group
        group = tuple(batch for batch in group if batch is not largest)
    return group


def _images(group: Sequence[FinishedBatch]) -> int:
    return sum(batch.images for batch in group)
