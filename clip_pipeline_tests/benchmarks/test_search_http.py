"""What the search benchmark asks and how it counts."""

from itertools import islice

import pytest

from benchmarks.captions import captions
from benchmarks.search_load import Tally, percentile


def test_captions_are_all_different_and_the_same_each_time():
    first = list(islice(captions(), 3000))
    assert len(set(first)) == 3000
    assert first == list(islice(captions(), 3000))


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([7], 0.5, 7), ([4, 1, 3, 2], 0.5, 2), (range(1, 101), 0.99, 99), (range(1, 102), 0.99, 100), ([1, 2], 1.0, 2)],
)
def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed(values, share, expected):
    assert percentile(list(values), share) == expected


def test_a_client_that_is_answered_from_an_older_release_than_before_counts_as_gone_back():
    tally = Tally()
    for release in ("0000001", "0000002", "0000002", "0000001", "0000003"):
        tally.count(1.0, "encode;dur=2.50, index;dur=0.50", release)
    assert tally.went_back == 1
    assert tally.spent_ms == {"encode": 12.5, "index": 2.5}
