"""What rounds come to: medians, and ratios taken within a round."""

import pytest

from benchmarks.rounds import Goal, Round, ratio_of_rounds, summary


def rounds_of(*seconds: float) -> list[Round]:
    return [Round(images=100, seconds=value, cpu_s=2 * value, extra={"forward_s": value / 2}) for value in seconds]


def test_the_median_round_speaks_for_a_contender():
    found = summary(rounds_of(10, 20, 1000), peak_bytes=3 * 2**20)
    assert found == {
        "images_per_s": 5.0,
        "images_per_s_of_rounds": [10.0, 5.0, 0.1],
        "cpu_ms_per_image": 400.0,
        "peak_memory_mib": 3,
        "forward_s": 10.0,
    }


def test_each_round_is_compared_with_the_best_other_of_the_same_round():
    others = {"slow": rounds_of(40, 60), "fast": rounds_of(20, 90)}
    assert ratio_of_rounds(rounds_of(10, 30), others) == pytest.approx([2.0, 2.0])


def test_a_ratio_that_meets_its_goal_reaches_it_but_a_peak_must_be_below_the_others():
    assert Goal("ratio", 2.7, 2.7, "at least").reached
    assert not Goal("ratio", 2.69, 2.7, "at least").reached
    assert Goal("peak", 1000, 1077, "below").reached
    assert not Goal("peak", 1077, 1077, "below").reached
