"""Merging: what a new release holds, what it leaves untouched, and what it refuses."""

import os
from dataclasses import replace

import numpy as np
import pytest

from clip_pipeline.core.errors import IntegrityError, StoreError
from clip_pipeline.core.manifest import file_sha256
from clip_pipeline.core.release import read_current_release, release_numbers, write_release
from clip_pipeline.index import staging
from clip_pipeline.index.choice import IndexPolicy
from clip_pipeline.index.publish import plan_from_store, prune_releases, publish_release, publishing_lock
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline_tests.index.sealing import PROVENANCE, clustered_vectors, random_vectors


def folder_of(corpus, release):
    return corpus.store.release_dir(corpus.spec.key, release.number)


def found_ids(corpus, k=1000):
    ids = ReleaseReader.open(corpus.store, corpus.spec.key).search(random_vectors(1, corpus.spec.dim), k).ids[0]
    return sorted(ids[ids != -1].tolist())


def test_a_first_merge_publishes_everything_with_its_provenance(corpus):
    corpus.add(1, range(100))
    corpus.add(2, range(200, 250))
    result = corpus.merge()
    release = result.release
    assert result.published
    assert read_current_release(corpus.store, corpus.spec.key) == release
    assert (release.number, release.parent, release.images, release.dim) == (1, None, 150, 16)
    assert (release.fingerprint, release.metric) == (corpus.spec.fingerprint, "inner-product")
    assert (release.recall, release.recall_k, release.recall_queries) == (1.0, 10, 100)
    assert (release.run_id, release.code_version, release.created_at) == ("run-1", "1.2.3", "2025-01-02T03:04:05Z")
    (segment,) = release.segments
    assert (segment.index_type, segment.rows, segment.dead, segment.dead_file) == ("flat-fp16", 150, 0, None)
    assert [(b.key, b.offset, b.rows) for b in segment.batches] == [("b0000001", 0, 100), ("b0000002", 100, 50)]
    folder = folder_of(corpus, release)
    assert {p.name: file_sha256(p) for p in folder.iterdir() if p.name != "release.json"} == segment.files
    assert found_ids(corpus) == sorted(corpus.live)


def test_nothing_new_publishes_nothing(corpus):
    corpus.add(1, range(10))
    first = corpus.merge()
    again = corpus.merge()
    assert not again.published
    assert again.release == first.release
    assert release_numbers(corpus.store, corpus.spec.key) == [1]


def test_a_new_batch_leaves_the_files_of_the_parent_untouched_and_shares_them(corpus):
    corpus.add(1, range(100))
    parent = folder_of(corpus, corpus.merge().release)
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in parent.iterdir()}
    corpus.add(2, range(100, 120))
    release = corpus.merge().release
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in parent.iterdir()} == before
    old, new = release.segments
    for name in (old.index_file, old.ids_file):
        assert (folder_of(corpus, release) / name).stat().st_ino == before[name][0]
    assert (release.parent, old.rows, new.rows) == (1, 100, 20)
    assert found_ids(corpus) == list(range(120))


def test_without_hard_links_files_are_copied(corpus, monkeypatch):
    corpus.add(1, range(10))
    corpus.merge()
    corpus.add(2, [20])

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    release = corpus.merge().release
    assert (folder_of(corpus, release) / release.segments[0].index_file).stat().st_nlink == 1
    assert found_ids(corpus) == [*range(10), 20]


def test_deleted_images_leave_and_return_without_rebuilding(corpus):
    corpus.add(1, range(50))
    corpus.merge()
    gone = corpus.delete([3, 7, 40])
    release = corpus.merge().release
    assert (release.images, release.segments[0].rows, release.segments[0].dead) == (47, 50, 3)
    assert found_ids(corpus) == sorted(corpus.live)
    corpus.live |= gone
    back = corpus.merge()
    assert back.plan.rows_added == 0
    assert [s.dead_file for s in back.release.segments] == [None]
    assert found_ids(corpus) == list(range(50))


def test_a_batch_embedded_anew_answers_with_its_new_vectors(corpus):
    corpus.add(1, range(30))
    corpus.add(2, range(30, 60))
    corpus.merge()
    corpus.add(1, range(30), random_vectors(30, seed=77))
    release = corpus.merge().release
    assert [(s.rows, s.dead) for s in release.segments] == [(60, 30), (30, 0)]
    reader = ReleaseReader.open(corpus.store, corpus.spec.key)
    for image_id in range(60):
        np.testing.assert_array_equal(reader.vector(image_id), corpus.vectors[image_id])


def test_an_image_that_moved_to_another_batch_is_found_once_and_can_move_back(corpus):
    corpus.add(1, range(10))
    corpus.merge()
    corpus.add(2, [5, 100])
    corpus.merge()
    assert found_ids(corpus) == [*range(10), 100]
    corpus.live[5] = 1
    corpus.merge()
    assert found_ids(corpus) == [*range(10), 100]


def test_the_last_image_leaving_gives_an_empty_release(corpus):
    corpus.add(1, range(10))
    corpus.merge()
    corpus.delete(range(10))
    release = corpus.merge().release
    assert (release.images, release.segments, release.recall, release.recall_queries) == (0, (), 1.0, 0)
    assert found_ids(corpus) == []


def test_images_without_sealed_vectors_are_reported_and_the_rest_is_published(corpus):
    corpus.add(1, range(10))
    corpus.live |= {50: 1, 60: 9}
    result = corpus.merge()
    assert result.plan.missing.tolist() == [50, 60]
    assert result.plan.content.image_ids.tolist() == list(range(10))
    assert not corpus.merge().published


def test_many_copies_of_one_picture_are_published(corpus):
    """Recall by ids called 2,000 equal vectors a failure: any ten of them are the nearest ten."""
    corpus.add(1, range(2000), np.repeat(random_vectors(2), 1000, axis=0))
    assert corpus.merge().release.recall == 1.0


@pytest.mark.parametrize("codec_bytes", [10**9, 1], ids=["fp16", "sq8"])
def test_large_additions_are_split_into_inverted_lists_with_their_recall(corpus, codec_bytes):
    for number in range(1, 7):
        corpus.add(number, range(500 * number, 500 * number + 500), clustered_vectors(500, seed=number, spread=0.5))
    policy = IndexPolicy(flat_rows=600, segment_rows=2000, memory_bytes=codec_bytes)
    release = corpus.merge(policy=policy).release
    codec = "fp16" if codec_bytes > 1 else "sq8"
    assert [(s.index_type, s.rows) for s in release.segments] == [(f"ivf128-{codec}", 2000), (f"ivf128-{codec}", 1000)]
    assert 0.95 <= release.recall <= 1.0


def test_a_release_that_finds_too_little_is_not_published(corpus, monkeypatch):
    corpus.add(1, range(50))
    first = corpus.merge().release
    corpus.add(2, range(50, 100))
    monkeypatch.setattr(staging, "build_index", with_vectors_of_others(staging.build_index))
    with pytest.raises(IntegrityError, match=r"not published.*round-trip: \d+ of 50 images differ.*recall@10"):
        corpus.merge()
    assert read_current_release(corpus.store, corpus.spec.key) == first
    assert sorted(p.name for p in corpus.store.releases_dir(corpus.spec.key).iterdir()) == [
        ".lock",
        "0000001",
        "CURRENT",
    ]


def with_vectors_of_others(build):
    """A builder that gives each vector to another image."""

    def build_wrongly(choice, dim, *, rows, blocks):
        return build(
            choice, dim, rows=rows, blocks=lambda: (replace(b, vectors=b.vectors[::-1].copy()) for b in blocks())
        )

    return build_wrongly


def test_damaged_segments_are_built_anew(corpus):
    corpus.add(1, range(10))
    corpus.merge()
    corpus.add(2, range(10, 20))
    release = corpus.merge().release
    path = folder_of(corpus, release) / release.segments[0].index_file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    result = corpus.merge()
    assert (result.published, result.damaged) == (True, (release.segments[0].name,))
    assert [s.rows for s in result.release.segments] == [10, 10]
    assert found_ids(corpus) == list(range(20))


@pytest.mark.parametrize("damage", ["unreadable", "gone"])
def test_an_unreadable_release_is_built_anew(corpus, damage):
    corpus.add(1, range(10))
    statement = folder_of(corpus, corpus.merge().release) / "release.json"
    statement.write_text("{") if damage == "unreadable" else statement.unlink()
    result = corpus.merge()
    assert (result.damaged, result.release.number, result.release.parent) == (("release",), 2, None)
    assert found_ids(corpus) == list(range(10))


def test_a_complete_release_that_was_never_published_is_neither_read_nor_overwritten(corpus):
    corpus.add(1, range(10))
    release = corpus.merge().release
    orphan = corpus.store.release_dir(corpus.spec.key, 2)
    orphan.mkdir()
    write_release(orphan, replace(release, number=2, images=99))
    left = (orphan / "release.json").read_bytes()
    corpus.add(2, [50])
    assert corpus.merge().release.number == 3
    assert (orphan / "release.json").read_bytes() == left


def test_only_the_newest_releases_and_the_current_one_are_kept(corpus):
    for number in range(1, 7):
        corpus.add(number, [number])
        corpus.merge(keep=4)
    assert release_numbers(corpus.store, corpus.spec.key) == [3, 4, 5, 6]
    corpus.store.set_current_release(corpus.spec.key, 3)
    assert prune_releases(corpus.store, corpus.spec.key, keep=1) == [4, 5]
    assert release_numbers(corpus.store, corpus.spec.key) == [3, 6]
    assert found_ids(corpus) == [1, 2, 3]


def test_two_publishers_do_not_work_at_once(corpus):
    corpus.add(1, range(10))
    with publishing_lock(corpus.store, corpus.spec.key), pytest.raises(StoreError, match="another publisher"):
        corpus.merge()
    assert corpus.merge().published


def test_a_plan_on_a_superseded_release_is_refused(corpus):
    corpus.add(1, range(10))
    plan = plan_from_store(corpus.store, corpus.spec, parent=None, live=corpus.live_images)
    corpus.merge()
    with pytest.raises(StoreError, match="plan again"):
        publish_release(corpus.store, corpus.spec, plan=plan, provenance=PROVENANCE)


def test_a_full_disk_leaves_the_current_release_and_no_remains(corpus, monkeypatch):
    corpus.add(1, range(10))
    first = corpus.merge().release
    corpus.add(2, [20])

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(StoreError, match=r"could not be written.*No space left"):
        corpus.merge()
    assert read_current_release(corpus.store, corpus.spec.key) == first
    assert release_numbers(corpus.store, corpus.spec.key) == [1]
    assert list(corpus.store.releases_dir(corpus.spec.key).glob(".tmp-*")) == []
