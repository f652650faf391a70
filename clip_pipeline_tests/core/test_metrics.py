"""Recall against hand-computed numbers."""

import numpy as np
import pytest

from clip_pipeline.core.metrics import recall_at_k, tie_aware_recall_at_k

INF = np.inf


def ids(*rows):
    return np.array(rows, np.int64)


def scores(*rows):
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("found", "truth", "k", "expected"),
    [
        (ids([1, 2, 3]), ids([3, 2, 1]), 3, 1.0),
        (ids([1, 2, 3]), ids([3, 2, 1]), 1, 0.0),
        (ids([1, 2, 9], [4, 8, 9]), ids([1, 2, 3], [4, 5, 6]), 3, 0.5),
        (ids([1, -1, -1]), ids([1, -1, -1]), 3, 1.0),
        (ids([-1, -1]), ids([-1, -1]), 2, 1.0),
        (ids([-1, -1]), ids([5, 6]), 2, 0.0),
        (np.empty((0, 2), np.int64), np.empty((0, 2), np.int64), 2, 1.0),
    ],
)
def test_recall_is_the_share_of_true_neighbours_found(found, truth, k, expected):
    assert recall_at_k(found, truth, k=k) == expected


@pytest.mark.parametrize(
    ("found", "truth", "k", "expected"),
    [
        (scores([0.9, 0.8, 0.7]), scores([0.9, 0.8, 0.7]), 3, 1.0),
        (scores([0.9, 0.8, 0.6]), scores([0.9, 0.8, 0.7]), 3, 2 / 3),
        # Five copies of one picture: any two of them are the nearest two.
        (scores([0.5, 0.5]), scores([0.5, 0.5]), 2, 1.0),
        (scores([0.7, 0.69]), scores([0.7, 0.7]), 2, 0.5),
        (scores([0.7, 0.6999]), scores([0.7, 0.7]), 2, 1.0),
        (scores([0.7, -INF]), scores([0.7, 0.5]), 2, 0.5),
        # Fewer true neighbours than k: measured against those there are, and never more than all of them.
        (scores([0.7, -INF, -INF]), scores([0.7, -INF, -INF]), 3, 1.0),
        (scores([-INF, -INF]), scores([0.7, -INF]), 2, 0.0),
        (scores([0.9], [-INF]), scores([0.9], [-INF]), 1, 1.0),
        (scores([-INF]), scores([-INF]), 1, 1.0),
    ],
)
def test_tie_aware_recall_counts_what_scores_no_lower_than_the_kth(found, truth, k, expected):
    assert tie_aware_recall_at_k(found, truth, k=k, tolerance=1e-3) == pytest.approx(expected)


def test_both_recalls_agree_where_no_scores_are_equal():
    rng = np.random.default_rng(0)
    exact = rng.permuted(np.tile(np.arange(50, dtype=np.float32), (20, 1)), axis=1)
    truth = np.argsort(-exact, axis=1)[:, :10]
    found = np.argsort(-(exact + rng.normal(0, 5, exact.shape)), axis=1)[:, :10]
    by_ids = recall_at_k(found, truth, k=10)
    pick = np.take_along_axis
    assert 0.3 < by_ids < 0.95
    assert tie_aware_recall_at_k(pick(exact, found, 1), pick(exact, truth, 1), k=10, tolerance=0.0) == by_ids


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("measure", [recall_at_k, lambda *a, k: tie_aware_recall_at_k(*a, k=k, tolerance=0.0)])
def test_k_must_fit_both_matrices(measure, k):
    with pytest.raises(ValueError, match=f"k={k}"):
        measure(np.zeros((1, 2)), np.zeros((1, 5)), k=k)


@pytest.mark.parametrize("measure", [recall_at_k, lambda *a, k: tie_aware_recall_at_k(*a, k=k, tolerance=0.0)])
def test_both_matrices_must_have_as_many_queries(measure):
    with pytest.raises(ValueError, match="as many queries"):
        measure(np.zeros((1, 2)), np.zeros((2, 2)), k=1)
