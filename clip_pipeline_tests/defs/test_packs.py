"""Which batches share a run: neighbours of one priority, spread over the slots there are, never too many."""

import random

import pytest

from clip_pipeline.defs.packs import MOST_JOBS, WaitingBatch, divide_into_packs, due_packs, most_images_of_a_pack
from clip_pipeline.defs.partitions import MAX_BATCHES_PER_RUN
from clip_pipeline.defs.work import Work


def batch(position: int, images: int, *, priority: int = 0, jobs: int = 1) -> WaitingBatch:
    job_ids = [f"job-{position}-{n}" for n in range(jobs)]
    return WaitingBatch(Work(f"embed:{position}", f"b{position:07d}", priority, job_ids), position, images)


def packs(waiting: list[WaitingBatch], *, slots: int = 1, most_images: int = 1_000) -> list[list[int]]:
    divided = divide_into_packs(waiting, slots=slots, most_images=most_images)
    return [[int(str(work.partition_key)[1:]) for work in pack] for pack in divided]


@pytest.mark.parametrize(
    ("images", "slots", "expected"),
    [
        ([], 1, []),
        ([10], 1, [[0]]),
        ([10, 10, 10, 10], 1, [[0, 1, 2, 3]]),
        ([10, 10, 10, 10], 2, [[0, 1], [2, 3]]),
        ([10, 10, 10, 10], 4, [[0], [1], [2], [3]]),
        ([10, 10, 10, 10], 9, [[0], [1], [2], [3]]),
        ([900, 200, 300], 1, [[0], [1, 2]]),
        ([5_000, 10, 10], 1, [[0], [1, 2]]),
        ([10, 5_000, 10], 1, [[0], [1], [2]]),
    ],
)
def test_batches_are_packed_up_to_a_limit_and_spread_over_the_slots(
    images: list[int], slots: int, expected: list[list[int]]
):
    assert packs([batch(n, count) for n, count in enumerate(images)], slots=slots) == expected


@pytest.mark.parametrize(
    ("images_per_s", "expected"), [(0.0, 10_000), (10.0, 10_000), (50.0, 15_000), (2_000.0, 600_000)]
)
def test_a_pack_has_a_full_batch_or_five_minutes_of_work(images_per_s: float, expected: int):
    assert most_images_of_a_pack(10_000, images_per_s=images_per_s) == expected


def test_batches_that_are_no_neighbours_never_share_a_run():
    """A run takes a stretch of partitions: whatever lies between would be embedded too."""
    assert packs([batch(1, 1), batch(2, 1), batch(4, 1), batch(3, 1)]) == [[1, 2], [4], [3]]


def test_an_urgent_batch_never_waits_for_one_that_is_not():
    waiting = [batch(3, 1, priority=5), batch(4, 1, priority=0), batch(5, 1, priority=0)]
    assert packs(waiting) == [[3], [4, 5]]


def test_a_run_has_no_more_batches_and_no_more_jobs_than_it_can_name():
    many = packs([batch(n, 1) for n in range(2 * MAX_BATCHES_PER_RUN)])
    assert [len(pack) for pack in many] == [MAX_BATCHES_PER_RUN] * 2
    crowded = packs([batch(n, 1, jobs=MOST_JOBS // 2) for n in range(4)])
    assert crowded == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("priorities", "unfinished", "slots", "due"),
    [
        ([0, 0, 0], [], 1, [0, 0]),
        ([0, 0, 0], [0], 1, [0]),
        ([0, 0, 0], [0, 0], 1, []),
        ([0, 0, 0], [0, 0], 2, [0, 0]),
        ([5, 0], [0, 0], 1, [5]),
        ([5, 5, 5, 0], [0, 0, 0], 1, [5, 5]),
        ([0], [5, 5], 1, []),
    ],
)
def test_runs_are_requested_while_a_slot_could_stand_idle_else(
    priorities: list[int], unfinished: list[int], slots: int, due: list[int]
):
    waiting = [[batch(n, 1, priority=priority).work] for n, priority in enumerate(priorities)]
    assert [pack[0].priority for pack in due_packs(waiting, unfinished=unfinished, slots=slots)] == due


def test_every_batch_is_in_one_pack_and_every_limit_holds():
    rng = random.Random(3)
    for _ in range(200):
        positions = sorted(rng.sample(range(60), rng.randrange(1, 40)))
        waiting = [batch(p, rng.randrange(1, 1_500), priority=rng.randrange(2)) for p in positions]
        waiting.sort(key=lambda one: (-one.work.priority, one.position))
        found = packs(waiting, slots=rng.randrange(1, 5))
        assert [p for pack in found for p in pack] == [one.position for one in waiting]
        sizes = {one.position: one.images for one in waiting}
        for pack in found:
            assert pack == list(range(pack[0], pack[0] + len(pack)))
            assert len(pack) == 1 or sum(sizes[p] for p in pack) <= 1_000
