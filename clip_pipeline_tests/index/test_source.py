"""Reading vectors back from sealed embeddings: what is checked, and in what order they come."""

import json

import numpy as np
import pytest

from clip_pipeline.core.errors import FingerprintMismatchError, IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.store import Store
from clip_pipeline.index import source as source_module
from clip_pipeline.index.source import SealedSource
from clip_pipeline_tests.index.sealing import live_of, random_vectors, seal_batch, spec_of

BATCH = BatchKey(1)


@pytest.fixture
def sealed(tmp_path):
    """A source with one batch of ids 10 to 19, its vectors and its digest."""
    store, spec, vectors = Store(tmp_path), spec_of(), random_vectors(10)
    return SealedSource(store, spec), vectors, seal_batch(store, spec, 1, range(10, 20), vectors)


def edit_seal(source, **changes):
    path = source.store.embeddings_dir(source.spec.key, BATCH) / "seal.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_wanted_vectors_come_in_blocks_in_the_order_of_the_rows(sealed, monkeypatch):
    source, vectors, digest = sealed
    monkeypatch.setattr(source_module, "BLOCK_ROWS", 2)
    blocks = list(source.blocks(BATCH, digest, wanted=np.array([11, 12, 15, 16, 19])))
    assert [block.ids.tolist() for block in blocks] == [[11, 12], [15, 16], [19]]
    np.testing.assert_array_equal(np.concatenate([b.vectors for b in blocks]), vectors[[1, 2, 5, 6, 9]])
    assert blocks[0].vectors.dtype == np.float32


def test_images_of_several_batches_are_collected_batch_by_batch(sealed):
    source, vectors, digest = sealed
    other = seal_batch(source.store, source.spec, 2, [1, 2], vectors[:2])
    content = live_of({1: 2, 12: 1, 19: 1})
    block = source.collect(content, {BATCH: digest, BatchKey(2): other})
    assert block.ids.tolist() == [12, 19, 1]
    np.testing.assert_array_equal(block.vectors, vectors[[2, 9, 0]])
    assert source.collect(live_of({}), {}).vectors.shape == (0, 16)


def test_digests_are_given_for_sealed_batches_only(sealed):
    source, _, digest = sealed
    assert source.digests([BATCH, BatchKey(2)]) == {BATCH: digest}


def test_the_ids_of_a_batch_are_read_without_its_vectors(sealed):
    source, _, _ = sealed
    assert source.image_ids(BATCH).tolist() == list(range(10, 20))
    with pytest.raises(StoreError, match="materialize image_embeddings for b0000002"):
        source.image_ids(BatchKey(2))


def test_a_batch_sealed_anew_meanwhile_asks_for_another_merge(sealed):
    source, vectors, digest = sealed
    seal_batch(source.store, source.spec, 1, range(10, 20), vectors[::-1])
    with pytest.raises(StoreError, match="merge again"):
        list(source.blocks(BATCH, digest, wanted=np.array([10])))


def test_an_id_that_the_batch_does_not_hold_is_refused(sealed):
    source, _, digest = sealed
    with pytest.raises(IntegrityError, match="one row for each of 2 ids, found 1"):
        list(source.blocks(BATCH, digest, wanted=np.array([10, 99])))


def test_an_id_twice_in_a_batch_is_refused(tmp_path):
    store, spec = Store(tmp_path), spec_of()
    digest = seal_batch(store, spec, 1, [1, 2, 2], random_vectors(3))
    with pytest.raises(IntegrityError, match="found 2 rows"):
        list(SealedSource(store, spec).blocks(BATCH, digest, wanted=np.array([2])))


def test_a_changed_byte_is_refused(sealed):
    source, _, digest = sealed
    path = source.store.embeddings_dir(source.spec.key, BATCH) / "vectors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"vectors\.npy"):
        list(source.blocks(BATCH, digest, wanted=np.array([10])))


def test_vectors_of_another_encoder_are_refused(sealed):
    source, _, digest = sealed
    edit_seal(source, fingerprint="0" * 64)
    with pytest.raises(FingerprintMismatchError, match="batch b0000001"):
        list(source.blocks(BATCH, digest, wanted=np.array([10])))


def test_a_seal_whose_digest_is_not_of_its_parts_is_refused(sealed):
    source, _, _ = sealed
    edit_seal(source, digest="f" * 64)
    with pytest.raises(IntegrityError, match="its parts give another"):
        list(source.blocks(BATCH, "f" * 64, wanted=np.array([10])))


def test_vectors_that_are_not_of_unit_length_are_refused(tmp_path):
    store, spec = Store(tmp_path), spec_of()
    digest = seal_batch(store, spec, 1, [1, 2], 2 * random_vectors(2))
    with pytest.raises(IntegrityError, match="unit length"):
        list(SealedSource(store, spec).blocks(BATCH, digest, wanted=np.array([1])))
