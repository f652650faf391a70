"""Which batches become one: small ones only, in order, never too many images, and only where it is worth it."""

import random

import pytest

from clip_pipeline.core.compaction import MANY_BATCHES, MOST_BATCHES, FinishedBatch, groups_to_compact, is_small
from clip_pipeline.core.keys import BatchKey


def finished(*sizes):
    return [FinishedBatch(BatchKey(number), size) for number, size in enumerate(sizes, start=1)]


def sizes(groups):
    return [[batch.images for batch in group] for group in groups]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), []),
        ((3,), []),
        ((49, 49), [[49, 49]]),
        ((25, 24), []),
        ((25, 25), [[25, 25]]),
        ((1,) * 7, []),
        ((1,) * 8, [[1] * 8]),
        ((0,) * 8, [[0] * 8]),
        ((50, 100, 49, 3), [[49, 3]]),
        ((49, 40, 30, 30), [[49, 40], [30, 30]]),
        ((8, *[1] * 7), []),
        ((8, *[1] * 8), [[8, *[1] * 8]]),
        ((16, *[1] * 8), [[1] * 8]),
    ],
)
def test_small_batches_are_grouped_where_that_fills_half_a_batch_or_replaces_many(given, expected):
    assert sizes(groups_to_compact(finished(*given), batch_size=100)) == expected


@pytest.mark.parametrize("seed", range(20))
def test_every_group_is_in_order_disjoint_within_bounds_and_worth_it(seed):
    rng = random.Random(seed)
    given = finished(*(rng.choice([0, 1, 5, 40, 60, 100]) for _ in range(rng.randint(0, 1500))))
    groups = groups_to_compact(given, batch_size=100)
    flat = [batch for group in groups for batch in group]
    assert flat == sorted(set(flat), key=lambda batch: batch.key)
    for group in groups:
        total = sum(batch.images for batch in group)
        assert total <= 100
        assert len(group) <= MOST_BATCHES
        assert all(is_small(batch.images, batch_size=100) for batch in group)
        assert len(group) >= MANY_BATCHES or (len(group) >= 2 and total >= 50)


def test_an_image_is_copied_a_bounded_number_of_times():
    """Batches of one image each, one after the other, compacted whenever it is worth it."""
    batches, copies, number = [], 0, 0
    for _ in range(2_000):
        number += 1
        batches.append(FinishedBatch(BatchKey(number), 1))
        for group in groups_to_compact(batches, batch_size=1_000):
            number += 1
            copies += sum(batch.images for batch in group)
            made = FinishedBatch(BatchKey(number), sum(batch.images for batch in group))
            batches = [batch for batch in batches if batch not in group] + [made]
    assert len(batches) < 20
    assert copies / 2_000 < 12
