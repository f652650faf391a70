"""Indexes built for real, read back mapped, and compared with comparing everything."""

import resource

import numpy as np
import pytest

from clip_pipeline.core.errors import StoreError
from clip_pipeline.index.build import build_index, read_index, training_sample, write_index
from clip_pipeline.index.choice import IndexChoice
from clip_pipeline.index.source import VectorBlock
from clip_pipeline_tests.index.sealing import clustered_vectors, random_vectors

CHOICES = [IndexChoice(0, "fp16"), IndexChoice(16, "fp16"), IndexChoice(16, "sq8")]


def blocks_of(vectors, ids, size=300):
    return lambda: (VectorBlock(ids[i : i + size], vectors[i : i + size]) for i in range(0, len(ids), size))


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("make", [random_vectors, clustered_vectors])
def test_an_index_written_and_read_finds_the_nearest(tmp_path, choice, make):
    vectors, ids = make(2000, 32), np.arange(2000) * 7 + 3
    index = build_index(choice, 32, rows=2000, blocks=blocks_of(vectors, ids))
    write_index(index, tmp_path / "a.faiss")
    read = read_index(tmp_path / "a.faiss")
    queries = vectors[::40]
    found = read.search(queries, 10)[1]
    scores = queries @ vectors.T
    tenth = np.sort(scores, axis=1)[:, -10]
    exact = np.take_along_axis(scores, (found - 3) // 7, axis=1)
    assert (exact >= tenth[:, None] - 1e-5).mean() >= (0.95 if choice.codec == "fp16" else 0.8)
    if choice.codec == "fp16" and choice.lists == 0:
        assert (exact >= tenth[:, None] - 1e-5).all()


def test_the_same_blocks_give_the_same_bytes(tmp_path):
    vectors, ids = clustered_vectors(2000, 32), np.arange(2000)
    for name in "ab":
        write_index(build_index(CHOICES[1], 32, rows=2000, blocks=blocks_of(vectors, ids)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_lists_are_probed_until_nearly_everything_is_found():
    vectors = random_vectors(3000, 64)
    index = build_index(IndexChoice(128, "fp16"), 64, rows=3000, blocks=blocks_of(vectors, np.arange(3000)))
    assert 16 < index.nprobe <= 128


def test_a_training_sample_is_drawn_from_all_blocks_once():
    vectors = random_vectors(1000, 8)
    sample = training_sample(blocks_of(vectors, np.arange(1000))(), rows=1000, wanted=100)
    where = [int(np.flatnonzero((vectors == row).all(axis=1))[0]) for row in sample]
    assert len(set(where)) == 100
    assert where == sorted(where)
    assert {position // 300 for position in where} == {0, 1, 2, 3}
    everything = training_sample(blocks_of(vectors, np.arange(1000))(), rows=1000, wanted=5000)
    np.testing.assert_array_equal(everything, vectors)


def test_a_full_disk_is_a_store_error_that_names_the_file(tmp_path):
    index = build_index(CHOICES[0], 64, rows=3000, blocks=blocks_of(random_vectors(3000, 64), np.arange(3000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StoreError, match=r"a\.faiss could not be written"):
            write_index(index, tmp_path / "a.faiss")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("content", [None, b"", b"no index at all" * 100])
def test_a_missing_or_foreign_file_is_a_store_error(tmp_path, content):
    if content is not None:
        (tmp_path / "a.faiss").write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.faiss is not readable"):
        read_index(tmp_path / "a.faiss")
