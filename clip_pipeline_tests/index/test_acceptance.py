"""What an addition is measured by: as exact as comparing everything, without reading what was merged before."""

import numpy as np
import pytest

from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.index import acceptance
from clip_pipeline.index.acceptance import ADDITION_QUERIES, KEPT_BATCHES, from_few_batches
from clip_pipeline.index.choice import IndexPolicy
from clip_pipeline.index.plan import LiveImages
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.index.source import SealedSource
from clip_pipeline.index.verify import measure_recall, verify_release
from clip_pipeline_tests.index.sealing import clustered_vectors, random_vectors

INVERTED = IndexPolicy(flat_rows=600)


def corpus_of_batches(corpus, batches, rows=200):
    for number in range(1, batches + 1):
        corpus.add(number, range(rows * number, rows * number + rows), clustered_vectors(rows, seed=number, spread=0.5))
    return corpus


def batches_read(monkeypatch):
    """The batches whose vectors are read from now on."""
    read = []
    original = SealedSource.blocks

    def noting(self, batch, digest, *, wanted):
        read.append(batch.number)
        return original(self, batch, digest, wanted=wanted)

    monkeypatch.setattr(SealedSource, "blocks", noting)
    return read


@pytest.mark.parametrize("policy", [IndexPolicy(), INVERTED], ids=["flat", "inverted lists"])
def test_the_recall_of_an_addition_is_that_of_comparing_with_every_sealed_vector(corpus, monkeypatch, policy):
    corpus_of_batches(corpus, 4).merge(policy=policy)
    corpus.add(5, range(5000, 5100), clustered_vectors(100, seed=1, spread=0.5))
    corpus.delete([200, 201, 407])
    asked = []
    original = acceptance.measure_recall

    def noting(reader, blocks, *, queries):
        asked.append(queries)
        return original(reader, blocks, queries=queries)

    monkeypatch.setattr(acceptance, "measure_recall", noting)
    result = corpus.merge(policy=policy)
    reader = ReleaseReader.open(corpus.store, corpus.spec.key)
    source = SealedSource(corpus.store, corpus.spec)
    (queries,) = asked
    everything = source.all_blocks(result.plan.content, result.plan.digests)
    assert result.release.recall == measure_recall(reader, everything, queries=queries)[0].recall
    assert result.release.recall_queries == len(queries) == ADDITION_QUERIES


def test_lists_that_are_not_probed_count_as_not_found(corpus, monkeypatch):
    """The truth comes from the index itself here, and must not be what a search finds."""
    corpus.add(1, range(1000), random_vectors(1000, seed=1))
    corpus.merge(policy=INVERTED)
    corpus.add(2, [5000], random_vectors(1, seed=2))
    monkeypatch.setattr(ReleaseReader, "search", with_few_probes(ReleaseReader.search))
    with pytest.raises(IntegrityError, match=r"recall@10 is 0\.[0-8]"):
        corpus.merge(policy=INVERTED)


def with_few_probes(search):
    def searching(self, *arguments, **options):
        for segment in self._segments:
            if segment._lists:
                segment._index.nprobe = 4
        return search(self, *arguments, **options)

    return searching


def test_an_addition_reads_itself_and_only_a_few_of_the_batches_merged_before(corpus, monkeypatch):
    corpus_of_batches(corpus, 20, rows=20).merge()
    read = batches_read(monkeypatch)
    corpus.add(30, range(9000, 9010))
    corpus.merge()
    assert 30 in read
    assert len(set(read)) == 1 + KEPT_BATCHES


def test_the_batches_that_are_read_again_are_others_each_time():
    content = LiveImages(np.arange(1000), np.repeat(np.arange(100), 10))
    chosen = [frozenset(from_few_batches(content, most=8, seed=seed).batch_numbers.tolist()) for seed in range(50)]
    assert {len(batches) for batches in chosen} == {8}
    assert len(frozenset().union(*chosen)) > 90
    assert from_few_batches(content, most=100, seed=0) is content


def test_vectors_kept_as_bytes_are_measured_against_the_sealed_ones(corpus, monkeypatch):
    policy = IndexPolicy(flat_rows=600, memory_bytes=1)
    corpus_of_batches(corpus, 5).merge(policy=policy)
    read = batches_read(monkeypatch)
    corpus.add(30, range(9000, 9010))
    release = corpus.merge(policy=policy).release
    assert set(read) == {1, 2, 3, 4, 5, 30}
    assert (release.segments[0].index_type, release.recall_queries) == ("ivf128-sq8", 100)


def test_a_later_verification_reads_every_batch(corpus, monkeypatch):
    corpus_of_batches(corpus, 20, rows=20).merge()
    corpus.add(30, range(9000, 9010))
    corpus.merge()
    read = batches_read(monkeypatch)
    assert verify_release(corpus.store, corpus.spec).faults == ()
    assert set(read) == {*range(1, 21), 30}


def test_a_full_search_of_a_segment_leaves_out_what_is_dead_and_other_segments(corpus):
    corpus_of_batches(corpus, 4).merge(policy=INVERTED)
    corpus.delete(range(200, 230))
    corpus.add(9, range(9000, 9100), clustered_vectors(100, seed=1, spread=0.5))
    release = corpus.merge(policy=INVERTED).release
    reader = ReleaseReader.open(corpus.store, corpus.spec.key)
    for number in range(9000, 9100):
        del corpus.live[number]
    queries = random_vectors(5, seed=8)
    found = reader.search_fully(queries, 10, segments=[release.segments[0].name])
    scores, ids = corpus.exact(queries, 10)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)
