"""Compaction: fewer segments, no dead rows, the same answers."""

from dataclasses import replace

import numpy as np
import pytest

from clip_pipeline.core.errors import IntegrityError, NotFoundError, StoreError
from clip_pipeline.core.release import Release, Segment, release_numbers
from clip_pipeline.index.choice import IndexPolicy
from clip_pipeline.index.compact import compact_release, segments_to_compact
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline_tests.index.sealing import PROVENANCE, random_vectors, seal_batch


def compact(corpus, **options):
    return compact_release(corpus.store, corpus.spec, provenance=PROVENANCE, **options)


def answers(corpus):
    found = ReleaseReader.open(corpus.store, corpus.spec.key).search(random_vectors(20, seed=5), 30)
    return found.scores.tolist(), found.ids.tolist()


@pytest.fixture
def worn(corpus):
    """Four segments; every fifth image deleted, batch 2 embedded anew."""
    for number in range(1, 4):
        corpus.add(number, range(100 * number, 100 * number + 40))
        corpus.merge()
    corpus.delete(list(corpus.live)[::5])
    live = set(corpus.live)
    corpus.add(2, range(200, 240), random_vectors(40, seed=50))
    corpus.delete(set(corpus.live) - live)
    corpus.merge()
    return corpus


def test_everything_becomes_one_segment_with_the_same_answers(worn):
    before, release = answers(worn), ReleaseReader.open(worn.store, worn.spec.key).release
    assert len(release.segments) == 3
    parent = worn.store.release_dir(worn.spec.key, release.number)
    files = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in parent.iterdir()}
    result = compact(worn)
    (segment,) = result.release.segments
    assert (segment.rows, segment.dead) == (len(worn.live), 0)
    assert (result.release.images, result.release.parent) == (release.images, release.number)
    assert answers(worn) == before
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in parent.iterdir()} == files
    assert not worn.merge().published


def test_chosen_segments_are_rebuilt_and_the_others_kept(worn):
    before, release = answers(worn), ReleaseReader.open(worn.store, worn.spec.key).release
    first, second, third = release.segments
    result = compact(worn, segments=frozenset({first.name, third.name}))
    kept, built = result.release.segments
    assert kept == second
    assert [b.key for b in built.batches] == [b.key for b in (*first.batches, *third.batches)]
    assert answers(worn) == before


def test_an_image_deleted_before_and_restored_after_compaction_comes_back(worn):
    compact(worn)
    worn.live |= {100: 1, 200: 2}
    result = worn.merge()
    assert result.plan.rows_added == 2
    assert set(ReleaseReader.open(worn.store, worn.spec.key).live_ids().tolist()) == set(worn.live)


def test_one_segment_without_dead_rows_is_left_as_it_is(corpus):
    corpus.add(1, range(10))
    corpus.merge()
    assert not compact(corpus).published
    assert release_numbers(corpus.store, corpus.spec.key) == [1]


def test_many_flat_segments_become_inverted_lists_beyond_the_limit(worn):
    result = compact(worn, policy=IndexPolicy(flat_rows=50))
    assert [s.index_type for s in result.release.segments] == ["ivf32-fp16"]
    assert result.release.recall >= 0.95


def test_there_is_nothing_to_compact_before_the_first_release(corpus):
    with pytest.raises(NotFoundError, match="no release"):
        compact(corpus)


def test_images_that_cannot_be_rebuilt_are_not_dropped_silently(worn):
    seal_batch(worn.store, worn.spec, 3, range(300, 310), random_vectors(10))
    before = answers(worn)
    with pytest.raises(StoreError, match="in no sealed batch"):
        compact(worn)
    assert answers(worn) == before


def test_a_damaged_release_is_not_compacted(worn):
    release = ReleaseReader.open(worn.store, worn.spec.key).release
    path = worn.store.release_dir(worn.spec.key, release.number) / release.segments[0].ids_file
    ids = np.load(path)
    path.unlink()
    np.save(path, ids + 1)
    with pytest.raises(IntegrityError, match="recorded digest"):
        compact(worn)


def release_with(*sizes):
    """A statement with segments of (rows, dead)."""
    segments = tuple(
        Segment(f"s{i}", "flat-fp16", rows, dead, (), "", "", None, {}) for i, (rows, dead) in enumerate(sizes)
    )
    return Release(1, "e", "m", "f", 4, "inner-product", 0, segments, 1.0, 10, 0, None, "r", "c", "t")


def test_segments_are_worth_compacting_when_decayed_or_too_many():
    assert segments_to_compact(release_with((100, 20), (100, 0))) == set()
    assert segments_to_compact(release_with((100, 21), (100, 0))) == {"s0"}
    many = release_with(*[(100, 0)] * 16, (1_000_000, 0))
    assert segments_to_compact(many) == {f"s{i}" for i in range(16)}
    assert segments_to_compact(replace(many, segments=many.segments[1:])) == set()
