"""Searching published releases, compared with comparing everything."""

import threading

import faiss
import numpy as np
import pytest

from clip_pipeline.core.errors import (
    FingerprintMismatchError,
    IntegrityError,
    NotFoundError,
    QueryError,
    StoreError,
)
from clip_pipeline.core.store import Store
from clip_pipeline.index import search
from clip_pipeline.index.choice import IndexPolicy
from clip_pipeline.index.publish import prune_releases
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline_tests.index.sealing import Corpus, clustered_vectors, random_vectors, spec_of

FLAT = IndexPolicy()
LISTS = IndexPolicy(flat_rows=50)
POLICIES = [pytest.param(FLAT, id="flat"), pytest.param(LISTS, id="ivf")]


def fill(corpus, policy, make=random_vectors):
    """Three segments of 400 images in all, the ids of the batches interleaved, some images deleted."""
    for number in range(1, 4):
        rows = 100 * number - 100 if number > 1 else 100
        corpus.add(number, np.arange(rows) * 3 + number, make(rows, corpus.spec.dim, seed=number))
        corpus.merge(policy=policy)
    corpus.delete(list(corpus.live)[::7])
    return corpus.merge(policy=policy).release


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A filled corpus with flat segments, only ever read."""
    corpus = Corpus(tmp_path_factory.mktemp("flat"))
    fill(corpus, FLAT)
    return corpus


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """The same with inverted lists, only ever read."""
    corpus = Corpus(tmp_path_factory.mktemp("lists"))
    fill(corpus, LISTS)
    return corpus


@pytest.fixture(params=["flat", "lists"])
def filled(request):
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)


def open_current(corpus):
    return ReleaseReader.open(corpus.store, corpus.spec.key)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("make", [random_vectors, clustered_vectors])
def test_results_over_segments_and_tombstones_are_those_of_comparing_everything(corpus, policy, make):
    release = fill(corpus, policy, make)
    assert len(release.segments) == 3
    assert all(segment.dead for segment in release.segments)
    queries = make(40, corpus.spec.dim, seed=9)
    found = open_current(corpus).search(queries, 10)
    scores, ids = corpus.exact(queries, 10)
    assert set(found.ids.ravel().tolist()) <= set(corpus.live)
    own = np.array([[corpus.vectors[i] @ query for i in row] for row, query in zip(found.ids, queries, strict=True)])
    np.testing.assert_allclose(found.scores, own, atol=1e-6)
    assert np.isclose(found.scores, scores, atol=1e-6).mean() >= (1.0 if policy is FLAT else 0.95)
    if policy is FLAT:
        distinct = (np.diff(scores, axis=1) < -1e-6).all(axis=1)
        assert distinct.sum() > 10
        np.testing.assert_array_equal(found.ids[distinct], ids[distinct])
    assert (found.scores.dtype, found.ids.dtype) == (np.float32, np.int64)


def test_more_than_there_is_gives_every_live_image_then_padding(filled):
    found = open_current(filled).search(random_vectors(2, 16, seed=5), 1000)
    live = len(filled.live)
    for scores, ids in zip(found.scores, found.ids, strict=True):
        assert sorted(ids[:live].tolist()) == sorted(filled.live)
        assert (ids[live:] == -1).all()
        assert np.isneginf(scores[live:]).all()


def test_a_filter_leaves_only_allowed_live_images_and_finds_all_of_them(filled):
    live, dead = sorted(filled.live)[::11], sorted(set(filled.vectors) - set(filled.live))[:5]
    found = open_current(filled).search(
        random_vectors(3, 16), len(live) + 3, allowed=np.array([*live, *dead, 10**9])[::-1]
    )
    for ids in found.ids:
        assert sorted(ids[ids != -1].tolist()) == live


def test_a_search_among_allowed_images_is_exact_however_few_lists_are_probed(lists):
    allowed = np.array(sorted(lists.live)[::2])
    matrix = np.array([lists.vectors[i] for i in allowed.tolist()])
    reader = open_current(lists)
    for segment in reader._opened():
        segment._index.nprobe = 1
    for query in random_vectors(50, 16, seed=6):
        found = reader.search(query[None], 1, allowed=allowed)
        assert found.scores[0, 0] == pytest.approx((matrix @ query).max(), abs=1e-6)


def test_an_empty_filter_finds_nothing(flat):
    found = open_current(flat).search(random_vectors(2, 16), 3, allowed=np.empty(0, np.int64))
    assert found.ids.tolist() == [[-1] * 3] * 2


def test_equal_scores_are_ordered_by_id_across_segments_even_where_k_cuts_them(corpus):
    same = np.repeat(random_vectors(1), 60, axis=0)
    rng = np.random.default_rng(0)
    for number in (1, 2):
        corpus.add(number, np.sort(rng.permutation(500)[:60] * 2 + number % 2), same)
        corpus.merge()
    found = open_current(corpus).search(same[:1], 10)
    assert found.ids.tolist() == [sorted(corpus.live)[:10]]


def test_the_vector_of_a_live_image_is_the_sealed_one(filled):
    reader = open_current(filled)
    for image_id in sorted(filled.vectors)[::5]:
        vector = reader.vector(image_id)
        assert reader.contains(image_id) == (image_id in filled.live)
        if image_id in filled.live:
            np.testing.assert_array_equal(vector, filled.vectors[image_id])
        else:
            assert vector is None
    assert not reader.contains(10**12)


def test_the_live_ids_are_those_of_the_ledger(flat):
    assert open_current(flat).live_ids().tolist() == sorted(flat.live)


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_out_of_range_is_a_query_error(flat, k):
    with pytest.raises(QueryError, match="1 to 1000"):
        open_current(flat).search(random_vectors(1), k)


@pytest.mark.parametrize("queries", [np.zeros((1, 15)), np.zeros(16), np.zeros((1, 1, 16)), np.full((1, 16), np.nan)])
def test_queries_of_another_shape_or_not_finite_are_a_query_error(flat, queries):
    with pytest.raises(QueryError, match="expected"):
        open_current(flat).search(queries, 3)


def test_no_queries_give_no_rows(flat):
    assert open_current(flat).search(np.empty((0, 16), np.float32), 3).ids.shape == (0, 3)


def test_an_empty_release_finds_nothing(corpus):
    corpus.merge()
    found = open_current(corpus).search(random_vectors(2), 4)
    assert found.ids.tolist() == [[-1] * 4] * 2


def test_a_query_of_another_encoder_is_refused(flat):
    reader = open_current(flat)
    reader.check_fingerprint(flat.spec)
    with pytest.raises(FingerprintMismatchError, match="use the release's encoder"):
        reader.check_fingerprint(spec_of(weights="other"))


def test_before_the_first_release_there_is_nothing_to_open(tmp_path):
    with pytest.raises(NotFoundError, match="no release"):
        ReleaseReader.open(Store(tmp_path), "encoder")
    with pytest.raises(NotFoundError, match="release 7"):
        ReleaseReader.open(Store(tmp_path), "encoder", number=7)


def test_a_changed_byte_in_a_segment_is_refused(corpus):
    release = fill(corpus, FLAT)
    path = corpus.store.release_dir(corpus.spec.key, release.number) / release.segments[0].index_file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="recorded digest"):
        open_current(corpus)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_open_reader_goes_on_when_its_release_is_superseded_and_pruned(corpus, policy):
    release = fill(corpus, policy)
    reader, queries = open_current(corpus), random_vectors(5, 16, seed=4)
    before, folder = reader.search(queries, 10), corpus.store.release_dir(corpus.spec.key, release.number)
    corpus.live.clear()
    corpus.add(9, [1])
    corpus.merge(policy=policy, keep=1)
    assert not folder.exists()
    after = reader.search(queries, 10)
    np.testing.assert_array_equal(before.ids, after.ids)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert reader.vector(int(before.ids[0, 0])) is not None
    assert open_current(corpus).search(queries, 1).ids.tolist() == [[1]] * 5


def test_a_release_pruned_between_reading_current_and_opening_it_is_not_an_error(corpus, monkeypatch):
    fill(corpus, FLAT)
    newest = corpus.store.current_release_number(corpus.spec.key)
    prune_releases(corpus.store, corpus.spec.key, keep=1)
    stale, truth = iter([newest - 1]), Store.current_release_number
    monkeypatch.setattr(Store, "current_release_number", lambda self, key: next(stale, None) or truth(self, key))
    assert open_current(corpus).release.number == newest


def test_a_closed_reader_says_so(flat):
    reader = open_current(flat)
    reader.close()
    with pytest.raises(StoreError, match="closed"):
        reader.search(random_vectors(1), 1)


def test_threads_searching_at_once_get_what_one_alone_gets(filled):
    """IndexIDMap2 swaps the selector inside the search parameters: shared between threads they would mix up."""
    reader, queries = open_current(filled), random_vectors(64, 16, seed=8)
    allowed = [None, np.array(sorted(filled.live)[::3]), np.array(sorted(filled.live)[1::3])]
    alone = [reader.search(queries, 10, allowed=choice) for choice in allowed]
    wrong, start = [], threading.Barrier(6)

    def search_again_and_again(number):
        start.wait()
        for turn in range(30):
            which = (number + turn) % 3
            found = reader.search(queries, 10, allowed=allowed[which])
            vector = reader.vector(int(found.ids[0, 0]))
            if not np.array_equal(found.ids, alone[which].ids) or vector is None:
                wrong.append((number, turn))

    threads = [threading.Thread(target=search_again_and_again, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_single_query_takes_one_core_and_leaves_the_setting_as_it_was(flat, monkeypatch):
    reader, used, inside = open_current(flat), [], search._OpenSegment.search

    def recorded(segment, *args, **kwargs):
        used.append(faiss.omp_get_max_threads())
        return inside(segment, *args, **kwargs)

    monkeypatch.setattr(search._OpenSegment, "search", recorded)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        reader.search(random_vectors(1), 3)
        reader.search(random_vectors(4), 3)
        assert set(used[:3]) == {1}
        assert set(used[3:]) == {2}
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)
