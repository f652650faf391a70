"""The spread of scores in a release, against comparing everything."""

import numpy as np
import pytest

from clip_pipeline.index.choice import IndexPolicy
from clip_pipeline.index.score_sample import sample_scores
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline_tests.index.sealing import clustered_vectors


def reader_of(corpus):
    return ReleaseReader.open(corpus.store, corpus.spec.key)


def scores_among(corpus):
    """All inner products of different live images, float32 [n, n], the diagonal -inf."""
    points = np.array([corpus.vectors[i] for i in sorted(corpus.live)])
    scores = points @ points.T
    np.fill_diagonal(scores, -np.inf)
    return scores


@pytest.mark.parametrize("policy", [IndexPolicy(), IndexPolicy(flat_rows=50)], ids=["flat", "ivf"])
def test_the_nearest_scores_of_all_images_are_those_of_comparing_everything(corpus, policy):
    corpus.add(1, np.arange(120), clustered_vectors(120, corpus.spec.dim))
    corpus.delete(range(0, 120, 5))
    corpus.merge(policy=policy)
    sample = sample_scores(reader_of(corpus))
    np.testing.assert_allclose(np.sort(sample.nearest), np.sort(scores_among(corpus).max(axis=1)), atol=1e-5)
    assert sample.release == 1


def test_chance_scores_are_of_pairs_of_different_images(corpus):
    corpus.add(1, np.arange(60))
    corpus.merge()
    every = scores_among(corpus)
    sample = sample_scores(reader_of(corpus), most=25)
    assert sample.chance.shape == sample.nearest.shape == (25,)
    assert np.isclose(sample.chance[:, None], every.ravel()[None, :], atol=1e-5).any(axis=1).all()


def test_the_same_release_gives_the_same_sample(corpus):
    corpus.add(1, np.arange(60))
    corpus.merge()
    first, second = (sample_scores(reader_of(corpus), most=10) for _ in range(2))
    np.testing.assert_array_equal(first.nearest, second.nearest)
    np.testing.assert_array_equal(first.chance, second.chance)


@pytest.mark.parametrize("images", [0, 1])
def test_a_release_without_two_images_has_no_scores(corpus, images):
    corpus.add(1, np.arange(3))
    corpus.merge()
    corpus.delete(range(images, 3))
    corpus.merge()
    sample = sample_scores(reader_of(corpus))
    assert (len(sample.nearest), len(sample.chance)) == (0, 0)
