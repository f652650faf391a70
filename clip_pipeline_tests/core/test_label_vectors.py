"""Label vectors on disk: written where the encoder is, read where it is not."""

import json
from dataclasses import replace

import numpy as np
import pytest

from clip_pipeline.core.errors import FingerprintMismatchError, IntegrityError, NotFoundError
from clip_pipeline.core.label_set import named_label_set
from clip_pipeline.core.label_vectors import read_label_vectors, write_label_vectors
from clip_pipeline.core.store import Store
from clip_pipeline_tests.fakes import HashEncoder

ENCODER = HashEncoder()
SPEC = ENCODER.spec
COLOURS = named_label_set("colours", ["red", "green", "blue"], templates=["a {} thing"], version=3)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def write(store, *, label_set=COLOURS, spec=SPEC):
    vectors = ENCODER.encode_texts(label_set.labels)
    return write_label_vectors(store, spec, label_set=label_set, vectors=vectors, logit_scale=20.0)


def test_what_is_read_is_what_was_written(store):
    seal = write(store)
    found = read_label_vectors(store, SPEC, digest=COLOURS.digest)
    assert found.seal == seal
    assert (seal.label_set, seal.version, seal.count, seal.dim, seal.logit_scale) == ("colours", 3, 3, 64, 20.0)
    np.testing.assert_array_equal(found.vectors, ENCODER.encode_texts(COLOURS.labels))


def test_each_content_of_a_label_set_has_vectors_of_its_own(store):
    other = replace(COLOURS, labels=("red", "green"))
    for label_set in (COLOURS, other):
        write(store, label_set=label_set)
    assert [len(read_label_vectors(store, SPEC, digest=s.digest).vectors) for s in (COLOURS, other)] == [3, 2]


def test_vectors_that_were_never_made_are_not_found(store):
    with pytest.raises(NotFoundError, match="materialize label_embeddings"):
        read_label_vectors(store, SPEC, digest=COLOURS.digest)


def test_vectors_of_another_encoder_are_refused(store):
    write(store)
    path = store.label_vectors_path(SPEC.key, COLOURS.digest).with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 64}))
    with pytest.raises(FingerprintMismatchError, match="another encoder than hash-64"):
        read_label_vectors(store, SPEC, digest=COLOURS.digest)


def test_damaged_vectors_are_refused(store):
    write(store)
    path = store.label_vectors_path(SPEC.key, COLOURS.digest)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError, match="is not what its statement describes"):
        read_label_vectors(store, SPEC, digest=COLOURS.digest)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_label_vectors(store, SPEC, digest=COLOURS.digest)


@pytest.mark.parametrize("wrong", [np.ones((3, 64)), np.zeros((3, 64)), np.full((3, 64), np.nan), np.eye(2, 64)])
def test_vectors_that_are_not_one_of_unit_length_for_each_label_are_not_written(store, wrong):
    with pytest.raises(IntegrityError, match=r"unit length|expected label vectors"):
        write_label_vectors(store, SPEC, label_set=COLOURS, vectors=wrong.astype(np.float32), logit_scale=1)
    assert list(store.root.iterdir()) == []
