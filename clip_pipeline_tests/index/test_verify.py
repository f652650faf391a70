"""Verification finds each kind of fault, and none where there is none."""

from dataclasses import replace

import numpy as np
import pytest

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.manifest import file_sha256
from clip_pipeline.core.release import read_current_release, write_release
from clip_pipeline.index.build import build_index, write_index
from clip_pipeline.index.choice import IndexChoice
from clip_pipeline.index.source import VectorBlock
from clip_pipeline.index.verify import RecallAtK, sample_of, spread, verify_release
from clip_pipeline_tests.index.sealing import live_of, random_vectors, seal_batch, spec_of


@pytest.fixture
def released(corpus):
    """Two segments of 60 images, one of them deleted."""
    corpus.add(1, range(40))
    corpus.merge()
    corpus.add(2, range(100, 120))
    corpus.delete([5])
    corpus.merge()
    return corpus


def verify(corpus, **options):
    return verify_release(corpus.store, corpus.spec, **options)


def current(corpus):
    """The current release of a corpus that has one."""
    release = read_current_release(corpus.store, corpus.spec.key)
    assert release
    return release


def rewrite(corpus, *, segment=0, **changes):
    """Publish in place another statement about one segment, digests brought up to date: files lie, hashes agree."""
    release = current(corpus)
    folder = corpus.store.release_dir(corpus.spec.key, release.number)
    segments = list(release.segments)
    changed = replace(segments[segment], **changes)
    segments[segment] = replace(changed, files={name: file_sha256(folder / name) for name in changed.files})
    write_release(folder, replace(release, segments=tuple(segments)))


def replace_file_of(corpus, name, save):
    """Replace one file of the current release; its parent keeps the old one, which was the same file."""
    release = current(corpus)
    path = corpus.store.release_dir(corpus.spec.key, release.number) / getattr(release.segments[0], name)
    path.unlink()
    save(path)


def checks_of(report):
    return {fault.check for fault in report.faults}


def test_a_sound_release_has_no_fault_and_full_recall_at_every_k(released):
    report = verify(released, expected=released.live_images.image_ids)
    assert report.faults == ()
    assert report.recall == tuple(RecallAtK(k, 1.0) for k in (1, 5, 10, 50))
    assert (report.queries, report.release.number) == (59, 2)
    assert verify(released, number=1).release.number == 1


def test_an_empty_release_has_no_fault(corpus):
    corpus.merge()
    assert verify(corpus).faults == ()


def test_there_is_nothing_to_verify_before_the_first_release(corpus):
    with pytest.raises(NotFoundError, match="no release"):
        verify(corpus)


@pytest.mark.parametrize("name", ["index_file", "ids_file", "dead_file"])
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_file_that_is_not_as_recorded_is_a_fault(released, name, damage):
    content = bytearray(b"something else")
    replace_file_of(released, name, lambda path: path.write_bytes(content) if damage == "flipped" else None)
    report = verify(released)
    assert checks_of(report) == {"files"}
    assert "recorded digest" in report.faults[0].detail


def test_ids_of_another_kind_are_a_fault_even_with_a_right_digest(released):
    replace_file_of(released, "ids_file", lambda path: np.save(path, np.arange(40, dtype=np.int32)))
    rewrite(released)
    report = verify(released)
    assert checks_of(report) == {"files"}
    assert "int32" in report.faults[0].detail


def test_ids_that_the_index_does_not_have_are_a_fault(released):
    replace_file_of(released, "ids_file", lambda path: np.save(path, np.arange(40) + 1000))
    rewrite(released)
    report = verify(released)
    assert checks_of(report) == {"structure"}
    assert any("different ids" in fault.detail for fault in report.faults)
    assert any("none of its own" in fault.detail for fault in report.faults)


def test_an_image_live_in_two_segments_is_a_fault(released):
    replace_file_of(released, "ids_file", lambda path: np.save(path, np.r_[np.arange(39), 100]))
    rewrite(released)
    assert any("1 images are live twice, first 100" in fault.detail for fault in verify(released).faults)


def test_counts_that_do_not_add_up_are_a_fault(released):
    release = current(released)
    write_release(released.store.release_dir(released.spec.key, 2), replace(release, images=7))
    assert [f.detail for f in verify(released).faults] == ["the release states 7 images, its segments hold 59"]


def test_batches_that_do_not_cover_the_rows_are_a_fault(released):
    (batch,) = current(released).segments[0].batches
    rewrite(released, batches=(replace(batch, rows=39),))
    assert any("cover its rows" in fault.detail for fault in verify(released).faults)


def test_what_the_ledger_expects_and_the_release_lacks_is_a_fault(released):
    expected = np.array(sorted({*released.live, 999} - {100}))
    details = [fault.detail for fault in verify(released, expected=expected).faults]
    assert details == [
        "1 images are not in the release, first 999",
        "1 images are in the release but not live, first 100",
    ]


def test_vectors_swapped_between_images_are_a_fault_of_the_round_trip(released):
    ids, vectors = np.arange(40), np.array([released.vectors[i] for i in range(40)])
    wrong = VectorBlock(ids, np.roll(vectors, 1, axis=0))
    index = build_index(IndexChoice(0, "fp16"), 16, rows=40, blocks=lambda: iter([wrong]))
    replace_file_of(released, "index_file", lambda path: write_index(index, path))
    rewrite(released)
    report = verify(released)
    assert {"round-trip", "recall"} <= checks_of(report)
    assert any("39 of 59 images differ from their sealed vector" in fault.detail for fault in report.faults)


def test_a_batch_sealed_anew_since_the_release_is_a_fault_that_names_it(released):
    seal_batch(released.store, released.spec, 2, range(100, 120), random_vectors(20, seed=9))
    report = verify(released)
    assert checks_of(report) == {"embeddings"}
    assert "b0000002" in report.faults[0].detail
    released.merge()
    assert verify(released).faults == ()


def test_damaged_embeddings_are_a_fault(released):
    path = next(released.store.root.glob("embeddings/*/b0000001/vectors.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    report = verify(released)
    assert checks_of(report) == {"embeddings"}
    assert report.recall == ()


def test_a_release_under_the_name_of_another_encoder_is_a_fault(released):
    # The key holds only the start of the fingerprint.
    other = spec_of(weights="other").fingerprint[12:]
    spec = replace(released.spec, fingerprint=released.spec.fingerprint[:12] + other)
    assert "was built with" in verify_release(released.store, spec).faults[0].detail


def test_samples_are_even_and_repeatable():
    content = live_of(dict.fromkeys(range(1000), 1))
    sample = sample_of(content, 50)
    assert len(sample) == 50
    np.testing.assert_array_equal(sample.image_ids, sample_of(content, 50).image_ids)
    assert sample_of(content, 2000) is content
    assert spread(np.arange(10), 4).tolist() == [0, 3, 6, 9]
