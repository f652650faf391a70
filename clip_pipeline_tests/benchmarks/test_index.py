"""The comparison of indexes: the same vectors for all, the truth true, and releases measured at every step."""

import json

import numpy as np
import pytest

from benchmarks import index_phases, index_vectors
from benchmarks.index import measure
from benchmarks.index_contenders import FlatIP
from benchmarks.index_phases import OURS
from benchmarks.index_vectors import DIM, MadeUpVectors, ids_of_batch, live_images, true_nearest, vectors_of_batch
from clip_pipeline.core.store import Store


@pytest.fixture(scope="module")
def vectors():
    return MadeUpVectors.prepare()


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of 300 instead of 10,000."""
    monkeypatch.setattr(index_vectors, "BATCH_ROWS", 300)


def test_vectors_are_of_unit_length_and_the_same_whoever_draws_them(vectors):
    drawn = vectors.draw(500, seed=7)
    assert drawn.shape == (500, DIM)
    np.testing.assert_allclose(np.linalg.norm(drawn.astype(np.float32), axis=1), 1, atol=1e-3)
    np.testing.assert_array_equal(drawn, MadeUpVectors.prepare().draw(500, seed=7))
    assert not np.array_equal(drawn, vectors.draw(500, seed=8))


def test_images_of_a_scene_are_closer_than_others_as_stated(vectors):
    drawn = vectors.draw(2000, seed=1).astype(np.float32)
    scores = (drawn @ drawn.T)[np.triu_indices(2000, 1)]
    assert np.mean(scores) == pytest.approx(0.37, abs=0.03)
    assert np.quantile(scores, 0.9999) > 0.75


@pytest.mark.usefixtures("small_batches")
def test_the_truth_is_what_comparing_everything_finds(vectors, tmp_path):
    store = Store(tmp_path)
    for number in (1, 2, 3):
        vectors.seal(store, number)
    queries = vectors.queries(20)
    everything = np.concatenate([vectors_of_batch(store, number) for number in (1, 2)])
    expected = np.argsort(-(queries @ everything.T), axis=1)[:, :5]
    np.testing.assert_array_equal(true_nearest(store, queries, batches=2, k=5), expected)
    np.testing.assert_array_equal(np.concatenate([ids_of_batch(1), ids_of_batch(2)]), live_images(2).image_ids)
    flat = FlatIP()
    flat.build(store, 2)
    np.testing.assert_array_equal(flat.search(queries, 5), expected)


@pytest.mark.slow
def test_releases_are_built_added_to_compacted_removed_from_and_searched(tmp_path):
    found = measure(tmp_path, 1, [OURS])[OURS]
    assert found["recall_at_10"] > 0.99
    assert found["described"].startswith("flat-fp16;")
    seconds = (
        "build_s",
        "add_s",
        "second_add_s",
        "verify_s",
        "compact_two_added_s",
        "remove_s",
        "load_s",
        "load_verified_s",
    )
    assert all(found[name] > 0 for name in seconds)
    assert found["add_share_of_rebuild"] == pytest.approx(found["add_s"] / found["build_s"], abs=1e-4)
    assert 2 * DIM < found["bytes_per_vector"] < 2 * DIM + 100
    assert json.dumps(found)


def test_graphs_are_searched_at_the_cheapest_effort_that_reaches_the_target():
    graph = Graph()
    tried = index_phases._tune(graph, np.zeros((1, DIM), np.float32), np.arange(100)[None, :])
    assert [one["effort"] for one in tried] == [16, 32]
    assert graph.effort == 32


class Graph:
    """Finds as many of the ten nearest as its effort allows: all from 32 on."""

    efforts: tuple[int, ...] = (16, 32, 64)
    effort = 0

    def set_effort(self, effort):
        self.effort = effort

    def search(self, queries, k):
        found = np.where(np.arange(k) < self.effort / 3.2, np.arange(k), -1)
        return np.repeat(found[None, :], len(queries), axis=0)
