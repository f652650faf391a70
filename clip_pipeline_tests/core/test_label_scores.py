"""Confidences against a slow obvious softmax, and the bounds that a softmax has."""

import tracemalloc

import numpy as np
import pytest

from clip_pipeline.core import label_scores
from clip_pipeline.core.label_scores import confidences, top_labels


def unit(rng, n, d=16):
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def softmax_one_by_one(vectors, labels, scale):
    rows = []
    for vector in vectors.astype(np.float64):
        powers = [np.exp(scale * float(vector @ label)) for label in labels.astype(np.float64)]
        rows.append([power / sum(powers) for power in powers])
    return np.array(rows)


@pytest.mark.parametrize("scale", [1.0, 19.0, 100.0])
def test_confidences_are_the_softmax_of_scaled_cosines(scale):
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng, 7), unit(rng, 11)
    found = confidences(vectors, labels, logit_scale=scale)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax_one_by_one(vectors, labels, scale), rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_one_label_has_confidence_one():
    rng = np.random.default_rng(0)
    assert confidences(unit(rng, 3), unit(rng, 1), logit_scale=100).tolist() == [[1.0]] * 3


def test_a_scale_beyond_the_range_of_exp_still_gives_numbers():
    vector = np.eye(4, dtype=np.float32)
    np.testing.assert_array_equal(confidences(vector, vector, logit_scale=1e4), vector)


def test_stored_vectors_score_as_those_they_were_rounded_from():
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng, 50, 384), unit(rng, 100, 384)
    exact = confidences(vectors, labels, logit_scale=100)
    np.testing.assert_allclose(confidences(vectors.astype(np.float16), labels, logit_scale=100), exact, atol=0.01)


@pytest.mark.parametrize("k", [1, 3, 9, 10, 5000])
def test_the_best_labels_come_first_with_their_share_of_all_labels(k):
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng, 20), unit(rng, 10)
    indices, best = top_labels(vectors, labels, logit_scale=10, k=k)
    everything = confidences(vectors, labels, logit_scale=10)
    order = np.argsort(-everything, axis=1)[:, :k]
    assert (indices.dtype, best.dtype, best.shape) == (np.int32, np.float16, (20, min(k, 10)))
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(best, np.take_along_axis(everything, order, axis=1), atol=1e-3)


def test_of_equal_labels_the_earlier_one_comes_first():
    labels = np.repeat(np.eye(2, dtype=np.float32), 3, axis=0)
    indices, _ = top_labels(np.eye(2, dtype=np.float32), labels, logit_scale=10, k=6)
    assert indices.tolist() == [[0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2]]


def test_scores_do_not_depend_on_how_many_images_are_done_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng, 23), unit(rng, 10)
    whole = top_labels(vectors, labels, logit_scale=10, k=4)
    monkeypatch.setattr(label_scores, "_NUMBERS_AT_ONCE", 50)
    parts = top_labels(vectors, labels, logit_scale=10, k=4)
    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-3)


def test_memory_does_not_grow_with_the_images():
    """All confidences of 20,000 images over 1,000 labels would take 80 MB."""
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng, 20_000).astype(np.float16), unit(rng, 1000)
    tracemalloc.start()
    top_labels(vectors, labels, logit_scale=19, k=5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70e6


def test_no_images_have_no_labels():
    indices, best = top_labels(np.empty((0, 16), np.float32), unit(np.random.default_rng(0), 9), logit_scale=1, k=5)
    assert indices.shape == best.shape == (0, 5)


def test_what_cannot_be_scored_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"got \(2, 16\) and \(3, 8\)"):
        confidences(unit(rng, 2), unit(rng, 3, 8), logit_scale=1)
    with pytest.raises(ValueError, match="at least one label"):
        confidences(unit(rng, 2), np.empty((0, 16), np.float32), logit_scale=1)
    with pytest.raises(ValueError, match="k of at least 1"):
        top_labels(unit(rng, 2), unit(rng, 3), logit_scale=1, k=0)
