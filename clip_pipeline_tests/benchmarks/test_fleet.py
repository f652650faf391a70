"""What the rounds of one and of two workers come to, and the pictures that they embed."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.fleet import FleetRound, chosen_pictures, rate_between, ratios, summary_of, write_copies
from benchmarks.fleet_under_test import CoresUsed


def round_of(workers: int, seconds: float, *, gaps_s: tuple[float, ...] = ()) -> FleetRound:
    return FleetRound(workers, 1000, seconds, 800 / seconds, 2, gaps_s, CoresUsed(1, 0, 0))


def test_two_workers_are_compared_with_the_round_of_one_before_them():
    rounds = [round_of(1, 100), round_of(2, 50), round_of(1, 300), round_of(2, 200)]
    assert ratios(rounds) == pytest.approx([2.0, 1.5])


def test_a_round_in_which_each_worker_had_one_run_has_no_gaps():
    """The report fell over the median of none."""
    found = summary_of([round_of(1, 100), round_of(2, 50)])
    assert (found["ratio"], found["ratio_by_ledger"], found["gap_between_runs_s"]) == (2.0, 2.0, None)
    assert found["images_per_s"] == {1: 10.0, 2: 20.0}
    assert found["goal_reached"]


def test_the_gaps_of_all_rounds_have_one_median():
    rounds = [round_of(1, 100, gaps_s=(3, 4, 5)), round_of(2, 80, gaps_s=(9, 9))]
    found = summary_of(rounds)
    assert (found["gap_between_runs_s"], found["ratio"], found["goal_reached"]) == (5, 1.25, False)


def test_the_rate_of_the_ledger_leaves_out_the_time_before_the_first_image_and_after_the_last():
    looks = [(0.0, 0), (10.0, 0), (11.0, 32), (12.0, 64), (20.0, 232), (21.0, 232)]
    assert rate_between(looks) == pytest.approx((232 - 32) / 9)


def test_the_rate_of_work_done_between_two_looks_is_not_known():
    assert rate_between([(0.0, 0), (1.0, 50)]) == 0


def test_copies_are_pictures_that_no_other_round_has(tmp_path: Path):
    picture = tmp_path / "one.jpg"
    Image.new("RGB", (8, 8), "red").save(picture)
    paths = [path for mark in "ab" for path in write_copies(tmp_path / mark, [picture], count=3, mark=mark)]
    assert len({path.read_bytes() for path in paths}) == 6
    for path in paths:
        with Image.open(path) as copy:
            assert copy.convert("RGB").tobytes() == Image.open(picture).convert("RGB").tobytes()


def test_the_jpegs_below_a_folder_are_taken(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("b.JPG", "deep/a.jpeg", "captions.csv"):
        (tmp_path / name).touch()
    assert chosen_pictures(tmp_path) == [tmp_path / "b.JPG", tmp_path / "deep" / "a.jpeg"]


def test_a_folder_without_jpegs_is_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match="no JPEG"):
        chosen_pictures(tmp_path)
