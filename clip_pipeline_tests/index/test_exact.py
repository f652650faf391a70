"""Exact search in blocks against sorting the whole score matrix."""

import numpy as np
import pytest

from clip_pipeline.index.exact import exact_search
from clip_pipeline.index.source import VectorBlock
from clip_pipeline_tests.index.sealing import clustered_vectors, random_vectors


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("make", [random_vectors, clustered_vectors])
def test_blocks_of_any_size_give_the_answer_of_the_whole(make, size):
    vectors, queries = make(200, 8), make(9, 8, seed=3)
    ids = np.random.default_rng(0).permutation(1000)[:200]
    candidates = np.stack([ids[:4], [ids[5], -1, 12345, ids[199]]])[np.arange(9) % 2]
    blocks = (VectorBlock(ids[i : i + size], vectors[i : i + size]) for i in range(0, 200, size))
    answer = exact_search(blocks, queries, k=10, candidates=candidates)
    scores = queries @ vectors.T
    np.testing.assert_allclose(answer.scores, -np.sort(-scores, axis=1)[:, :10], atol=1e-6)
    np.testing.assert_allclose(answer.candidate_scores[0], scores[0, :4], atol=1e-6)
    np.testing.assert_allclose(answer.candidate_scores[1], [scores[1, 5], -np.inf, -np.inf, scores[1, 199]], atol=1e-6)


def test_fewer_vectors_than_k_leave_empty_slots():
    vectors = random_vectors(3, 4)
    block = VectorBlock(np.array([7, 5, 6]), vectors)
    answer = exact_search([block], vectors[:1], k=5, candidates=np.empty((1, 0), np.int64))
    assert answer.ids[0, 0] == 7
    assert answer.ids[0, 3:].tolist() == [-1, -1]
    assert np.isneginf(answer.scores[0, 3:]).all()


def test_equal_scores_are_ordered_by_id():
    vectors = np.repeat(random_vectors(1, 4), 4, axis=0)
    answer = exact_search(
        [VectorBlock(np.array([9, 2, 5, 1]), vectors)], vectors[:1], k=4, candidates=np.empty((1, 0), np.int64)
    )
    assert answer.ids.tolist() == [[1, 2, 5, 9]]


def test_no_blocks_give_nothing():
    answer = exact_search([], random_vectors(2, 4), k=3, candidates=np.zeros((2, 1), np.int64))
    assert answer.ids.tolist() == [[-1] * 3] * 2
    assert np.isneginf(answer.candidate_scores).all()
