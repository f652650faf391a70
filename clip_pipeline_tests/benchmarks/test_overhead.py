"""From the stages of two sizes to what a larger batch costs."""

import pytest

from benchmarks.overhead import Costs, Line, costs_of, median_stages
from benchmarks.run_stages import LOOP, STAGES, EmbeddedBatch, RunTimes

FIXED_S = {"queue": 1.0, "launch": 3.0, "prepare": 2.0, "load": 4.0, LOOP: 1.5, "seal": 0.5, "record": 0.25,
           "between": 0.0, "finish": 0.5}  # fmt: skip
PER_IMAGE_S = dict.fromkeys(STAGES, 0.0) | {LOOP: 0.02, "seal": 0.0001, "record": 0.0002}


def run_of(images: int, *, late_s: float = 0.0) -> RunTimes:
    cost = {name: FIXED_S[name] + images * PER_IMAGE_S[name] for name in STAGES} | {"queue": FIXED_S["queue"] + late_s}
    queued = 1000.0
    taken = queued + cost["queue"]
    started = taken + cost["launch"]
    step = started + cost["prepare"]
    decoded = step + cost["load"] + cost[LOOP]
    logged = decoded + cost["seal"] + cost["record"]
    batch = EmbeddedBatch(images, cost[LOOP], cost["seal"], decoded, logged)
    return RunTimes("run", "w:1", queued, taken, started, step, logged + cost["finish"], [batch])


def test_each_stage_is_a_cost_of_the_run_and_a_cost_of_each_image():
    costs = costs_of([run_of(500), run_of(2000), run_of(500, late_s=60), run_of(500), run_of(2000)])
    for name in STAGES:
        assert costs.stages[name].fixed_s == pytest.approx(FIXED_S[name], abs=1e-6)
        assert costs.stages[name].per_image_s == pytest.approx(PER_IMAGE_S[name], abs=1e-9)
    assert costs.images_per_s == pytest.approx(50)


def test_a_wait_for_the_queue_is_no_cost_of_images():
    """Between runs of two sizes it differs by chance, and a batch of 10,000 would have been charged for it."""
    costs = costs_of([run_of(500), run_of(2000, late_s=30), run_of(2000, late_s=60), run_of(500)])
    assert costs.stages["queue"].fixed_s == pytest.approx(16)
    assert costs.stages["queue"].per_image_s == 0.0


def test_the_share_is_what_is_no_embedding_of_all_the_time():
    costs = costs_of([run_of(500), run_of(2000)])
    fixed_s = sum(FIXED_S.values())
    overhead_s = fixed_s + 10_000 * 0.0003
    assert costs.overhead_s(images=10_000) == pytest.approx(overhead_s)
    assert costs.share(images=10_000, images_per_s=50) == pytest.approx(overhead_s / (overhead_s + 200))
    assert costs.share(images=10_000, images_per_s=2000) == pytest.approx(overhead_s / (overhead_s + 5))


def test_a_run_of_several_batches_starts_once_and_seals_and_records_each():
    costs = costs_of([run_of(500), run_of(2000)])
    one, twenty = costs.overhead_s(images=10_000), costs.overhead_s(images=200_000, batches=20)
    assert twenty - one == pytest.approx(190_000 * 0.0003 + 19 * 0.75)


def test_a_stage_that_seemed_faster_with_more_images_makes_no_image_cheaper_than_free():
    noisy = Costs({name: Line(1.0, -0.001) for name in STAGES} | {LOOP: Line(0.0, 0.02)})
    assert noisy.overhead_s(images=10_000) == pytest.approx(len(STAGES) - 1)


def test_the_median_run_of_a_size_speaks_for_it():
    runs = [run_of(500), run_of(500, late_s=60), run_of(500, late_s=1)]
    assert median_stages(runs, 500)["queue"] == pytest.approx(2)
