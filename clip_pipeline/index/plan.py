"""What the next release consists of, decided from facts alone: NumPy in, a plan out. No FAISS and no writing here.

The ledger says in which batch each live image has its current vector; the seals say at which digest each batch is.
A stored row is live when both agree with it. An image id occurs at most once in a segment, because a new segment
takes only rows that are live when it is built; therefore a dead list of ids is exact.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.release import IdArray, Release, Segment, SegmentRows

_NO_BATCH = -1


@dataclass(frozen=True, slots=True, eq=False)
class LiveImages:
    """The images that searches should find. image_ids: int64 [n], strictly ascending; batch_numbers: int64 [n],
    the number of the batch that holds each one's current vector.

    Raises:
        ValueError: the two are not aligned, or the ids are not strictly ascending.
    """

    image_ids: IdArray
    batch_numbers: IdArray

    def __post_init__(self) -> None:
        if self.image_ids.ndim != 1 or self.image_ids.shape != self.batch_numbers.shape:
            raise ValueError(f"expected aligned arrays, got {self.image_ids.shape} and {self.batch_numbers.shape}")
        if np.any(self.image_ids[1:] <= self.image_ids[:-1]):
            raise ValueError("expected strictly ascending image ids")

    def __len__(self) -> int:
        return len(self.image_ids)

    def by_batch(self) -> Iterator[tuple[BatchKey, IdArray]]:
        """Each batch in order with its ids, ascending."""
        order = np.argsort(self.batch_numbers, kind="stable")
        numbers, starts = np.unique(self.batch_numbers[order], return_index=True)
        groups = np.split(self.image_ids[order], starts[1:])
        for number, ids in zip(numbers.tolist(), groups, strict=False):
            yield BatchKey(number), ids

    def only(self, positions: np.ndarray) -> "LiveImages":
        """The images at `positions`, a mask or ascending row numbers."""
        return LiveImages(self.image_ids[positions], self.batch_numbers[positions])


@dataclass(frozen=True, slots=True, eq=False)
class KeptSegment:
    """A segment of the parent whose files are used again. dead: int64, ascending, the ids hidden from now on;
    `changed` when they differ from those the parent hides."""

    segment: Segment
    dead: IdArray
    changed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Addition:
    """Rows of one sealed batch that no kept segment holds alive. image_ids: int64, ascending, at least one."""

    batch: BatchKey
    digest: str
    image_ids: IdArray


@dataclass(frozen=True, slots=True, eq=False)
class ReleasePlan:
    """The next release. parent: its number; dropped: names of segments left out; missing: live ids that no sealed
    batch holds, int64, ascending; content: the images the release will hold; digests: of the content's batches."""

    parent: int | None
    kept: tuple[KeptSegment, ...]
    dropped: tuple[str, ...]
    additions: tuple[Addition, ...]
    missing: IdArray
    content: LiveImages
    digests: Mapping[BatchKey, str]

    @property
    def rows_added(self) -> int:
        """How many vectors the new segments will hold."""
        return sum(len(addition.image_ids) for addition in self.additions)

    def changes_nothing(self, parent: Release | None) -> bool:
        """True when a release by this plan would hold exactly what `parent` holds, row for row."""
        if parent is None or self.additions or len(self.kept) != len(parent.segments):
            return False
        return not any(kept.changed for kept in self.kept)


def plan_release(
    parent: Release | None,
    sealed: Mapping[BatchKey, str],
    *,
    live: LiveImages,
    segment_rows: Callable[[Segment], SegmentRows],
    batch_ids: Callable[[BatchKey], IdArray],
) -> ReleasePlan:
    """The cheapest release with exactly one live row for every live image that a sealed batch holds.

    sealed: the content digest of each sealed batch. segment_rows: the id map of a segment of the parent. batch_ids:
    the ids that a sealed batch holds vectors of; asked only for batches that have something to add.
    """
    covered = np.zeros(len(live), dtype=bool)
    kept: list[KeptSegment] = []
    for segment in parent.segments if parent else ():
        survivor = _keep(segment, segment_rows(segment), sealed=sealed, live=live, covered=covered)
        if survivor is not None:
            kept.append(survivor)
    additions = _additions(live.only(~covered), sealed, batch_ids=batch_ids)
    for addition in additions:
        covered[np.searchsorted(live.image_ids, addition.image_ids)] = True
    names = {survivor.segment.name for survivor in kept}
    content = live.only(covered)
    return ReleasePlan(
        parent=parent.number if parent else None,
        kept=tuple(kept),
        dropped=tuple(s.name for s in parent.segments if s.name not in names) if parent else (),
        additions=additions,
        missing=live.image_ids[~covered],
        content=content,
        digests={BatchKey(n): sealed[BatchKey(n)] for n in np.unique(content.batch_numbers).tolist()},
    )


def content_of(release: Release, segment_rows: Callable[[Segment], SegmentRows]) -> LiveImages:
    """What a release holds alive and from which batch, each image once (the first segment that has it)."""
    ids: list[IdArray] = [np.empty(0, np.int64)]
    numbers: list[IdArray] = [np.empty(0, np.int64)]
    for segment in release.segments:
        rows = segment_rows(segment)
        alive = ~np.isin(rows.ids, rows.dead)
        ids.append(rows.ids[alive])
        numbers.append(row_batches(segment)[alive])
    image_ids, first = np.unique(np.concatenate(ids), return_index=True)
    return LiveImages(image_ids, np.concatenate(numbers)[first])


def row_batches(segment: Segment, sealed: Mapping[BatchKey, str] | None = None) -> IdArray:
    """The batch number of each row, int64 [rows]; -1 where `sealed` is given and has the batch at another digest."""
    numbers = np.full(segment.rows, _NO_BATCH, dtype=np.int64)
    for batch in segment.batches:
        key = BatchKey.parse(batch.key)
        if sealed is None or sealed.get(key) == batch.digest:
            numbers[batch.offset : batch.offset + batch.rows] = key.number
    return numbers


def _keep(
    segment: Segment, rows: SegmentRows, *, sealed: Mapping[BatchKey, str], live: LiveImages, covered: np.ndarray
) -> KeptSegment | None:
    """The segment with its new dead list, or None when nothing in it is live. Marks what it holds in `covered`."""
    if not len(live):
        return None
    positions = np.minimum(np.searchsorted(live.image_ids, rows.ids), len(live) - 1)
    same_image = live.image_ids[positions] == rows.ids
    same_batch = live.batch_numbers[positions] == row_batches(segment, sealed)
    alive = same_image & same_batch & ~covered[positions]
    if not alive.any():
        return None
    covered[positions[alive]] = True
    dead = np.sort(rows.ids[~alive])
    return KeptSegment(segment, dead, changed=not np.array_equal(dead, rows.dead))


def _additions(
    uncovered: LiveImages, sealed: Mapping[BatchKey, str], *, batch_ids: Callable[[BatchKey], IdArray]
) -> tuple[Addition, ...]:
    found: list[Addition] = []
    for batch, wanted in uncovered.by_batch():
        if batch not in sealed:
            continue
        present = wanted[np.isin(wanted, batch_ids(batch))]
        if present.size:
            found.append(Addition(batch, sealed[batch], present))
    return tuple(found)
