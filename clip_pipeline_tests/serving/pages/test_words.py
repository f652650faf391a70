"""How the pages say numbers."""

import pytest

from clip_pipeline.serving.pages.words import said_bytes, said_duration, said_moment, said_rate


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (739_500_000, "740 MB"), (99_949, "99.9 kB"),
     (999_960, "1.0 MB"), (4.4e12, "4.4 TB"), (1.5e16, "15,000.0 TB")],
)  # fmt: skip
def test_sizes_have_three_digits_and_a_unit(number, text):
    assert said_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (3725, "1 h 2 min"),
     (90_061, "1 d 1 h"), (86_400 * 400, "400 d")],
)  # fmt: skip
def test_durations_have_two_units(seconds, text):
    assert said_duration(seconds) == text


def test_a_moment_names_its_zone():
    assert said_moment("2026-01-05T03:04:05.678Z") == "5 Jan 2026, 03:04:05 UTC"


@pytest.mark.parametrize(
    ("per_second", "text"), [(1234.5, "1,234 images/s"), (2.345, "2.3 images/s"), (0.1, "6.0 images/min")]
)
def test_slow_rates_are_said_by_the_minute(per_second, text):
    assert said_rate(per_second) == text
