"""Sets of ids by sorting come to what Python's sets come to."""

import numpy as np
import pytest

from clip_pipeline.index.id_sets import are_in, distinct, without


@pytest.mark.parametrize(
    ("ascending", "wanted"),
    [([], [3, 1]), ([1, 4, 9], []), ([1, 4, 9], [9, 0, 4, 4, 10]), ([2**62], [-(2**62), 2**62]), ([], [])],
)
def test_members_and_the_rest_are_told_apart_in_any_order(ascending, wanted):
    known, asked = np.array(ascending, np.int64), np.array(wanted, np.int64)
    assert are_in(known, asked).tolist() == [i in ascending for i in wanted]
    assert without(asked, known).tolist() == [i for i in wanted if i not in ascending]


def test_membership_keeps_the_shape_of_a_matrix():
    assert are_in(np.array([1, 5]), np.array([[5, 0], [1, 1]])).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("ids", [[], [7], [3, 1, 3, 2, 1], [-5, 2**62, -5]])
def test_each_id_comes_once_and_in_order(ids):
    assert distinct(np.array(ids, np.int64)).tolist() == sorted(set(ids))
