"""The labels of a whole collection: scored from stored vectors, sealed, mapped, replaced."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from clip_pipeline.core import image_labels
from clip_pipeline.core.errors import IntegrityError, NotFoundError, QueryError
from clip_pipeline.core.image_labels import (
    CONFIDENCE,
    IDS,
    TOP,
    Labelled,
    check_image_labels,
    open_image_labels,
    read_image_labels_seal,
    seal_image_labels,
)
from clip_pipeline.core.label_scores import confidences
from clip_pipeline.core.label_set import named_label_set
from clip_pipeline.core.label_vectors import LabelVectors, write_label_vectors
from clip_pipeline.core.store import Store
from clip_pipeline_tests.fakes import COLOURS, HashEncoder

ENCODER = HashEncoder()
KEY = ENCODER.spec.key
LABELS = named_label_set("colours", list(COLOURS), templates=["{}"], version=1)
IMAGES = 200


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


@pytest.fixture(scope="module")
def collection():
    """Ids in no order, and vectors near those of the colours."""
    rng = np.random.default_rng(0)
    vectors = ENCODER.encode_texts(rng.choice(list(COLOURS), IMAGES).tolist())
    vectors = vectors + rng.normal(0, 0.08, vectors.shape).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return rng.permutation(np.arange(1000, 1000 + IMAGES)).astype(np.int64), vectors.astype(np.float16)


def seal(store, collection, *, label_set=LABELS, release=7, images=None, step=64):
    ids, vectors = collection
    embedded = ENCODER.encode_texts(label_set.labels)
    written = write_label_vectors(store, ENCODER.spec, label_set=label_set, vectors=embedded, logit_scale=20.0)
    return seal_image_labels(
        store,
        KEY,
        label_set=label_set,
        label_vectors=LabelVectors(written, embedded),
        release=release,
        images=len(ids) if images is None else images,
        chunks=((ids[i : i + step], vectors[i : i + step]) for i in range(0, len(ids), step)),
    )


def expected_ids(collection, label, *, min_confidence, label_set=LABELS):
    """One image at a time, from all confidences."""
    found = []
    for image_id, vector in zip(*collection, strict=True):
        scores = confidences(vector[None], ENCODER.encode_texts(label_set.labels), logit_scale=20.0)[0]
        best = [label_set.labels[i] for i in np.argsort(-scores)[:5]]
        if label in best and np.float16(scores[label_set.labels.index(label)]) >= min_confidence:
            found.append(int(image_id))
    return sorted(found)


@pytest.mark.parametrize("min_confidence", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("label", ["red", "white"])
def test_images_are_found_by_label_and_confidence(store, collection, monkeypatch, label, min_confidence):
    monkeypatch.setattr(image_labels, "_ROWS_AT_ONCE", 64)
    seal(store, collection)
    opened = open_image_labels(store, KEY, digest=LABELS.digest)
    expected = expected_ids(collection, label, min_confidence=min_confidence)
    assert 0 < len(expected) < IMAGES
    assert opened.ids_with(label.upper(), min_confidence=min_confidence).tolist() == expected


def test_counts_are_of_each_images_best_label(store, collection):
    seal(store, collection)
    opened = open_image_labels(store, KEY, digest=LABELS.digest)
    firsts = [opened.labels_of(int(image_id))[0].label for image_id in collection[0]]
    assert opened.counts() == {label: firsts.count(label) for label in sorted(set(firsts))}
    assert list(opened.counts().values()) == sorted(opened.counts().values(), reverse=True)
    assert sum(opened.counts().values()) == IMAGES


def test_an_image_has_its_labels_best_first_and_one_that_was_not_scored_has_none(store, collection):
    seal(store, collection)
    opened = open_image_labels(store, KEY, digest=LABELS.digest)
    found = opened.labels_of(int(collection[0][17]))
    scores = confidences(collection[1][17:18], ENCODER.encode_texts(LABELS.labels), logit_scale=20.0)[0]
    assert [label.label for label in found] == [LABELS.labels[i] for i in np.argsort(-scores)[:5]]
    assert [label.confidence for label in found] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-3)
    assert opened.labels_of(999) == opened.labels_of(10**9) == []


def test_a_set_of_two_labels_keeps_two(store, collection):
    two = replace(LABELS, labels=("red", "blue"))
    assert seal(store, collection, label_set=two).kept == 2
    found = open_image_labels(store, KEY, digest=two.digest).labels_of(1000)
    assert sum(label.confidence for label in found) == pytest.approx(1, abs=1e-3)


def test_a_set_of_one_label_is_sure_of_it(store, collection):
    one = replace(LABELS, labels=("red",))
    seal(store, collection, label_set=one)
    assert open_image_labels(store, KEY, digest=one.digest).labels_of(1000) == [Labelled("red", 1.0)]


def test_the_order_and_size_of_the_chunks_do_not_matter(store, collection):
    first = seal(store, collection)
    order = np.argsort(collection[0])
    assert seal(store, (collection[0][order], collection[1][order]), step=7).files == first.files


def test_an_empty_collection_has_no_labels(store):
    seal(store, (np.empty(0, np.int64), np.empty((0, 64), np.float16)))
    opened = open_image_labels(store, KEY, digest=LABELS.digest)
    assert opened.ids_with("red").tolist() == []
    assert opened.counts() == {}


def test_a_label_that_the_set_lacks_is_refused(store, collection):
    seal(store, collection)
    with pytest.raises(QueryError, match=r"of the set colours version 1, got '\\u732b'; it has 6 labels"):
        open_image_labels(store, KEY, digest=LABELS.digest).ids_with("猫")


def test_an_open_reader_keeps_its_labels_when_newer_ones_are_published(store, collection):
    seal(store, collection)
    opened = open_image_labels(store, KEY, digest=LABELS.digest)
    before = opened.ids_with("red").tolist()
    seal(store, (collection[0][:50], collection[1][:50]), release=8)
    assert opened.ids_with("red").tolist() == before
    assert opened.seal.release == 7
    assert (read_image_labels_seal(store, KEY, digest=LABELS.digest).release, IMAGES) == (8, len(opened.ids))


def test_arrays_are_never_taken_from_two_publications(store, collection, monkeypatch):
    """Newer labels take the place of those that are being opened after the first array was mapped."""
    seal(store, collection)
    opened, swapped, really_map = [], [], image_labels._map

    def swap_after_the_first(path, *, empty):
        opened.append(path.name)
        array = really_map(path, empty=empty)
        if not swapped:
            swapped.append(seal(store, (collection[0][::-1] + 5000, collection[1][::-1]), release=8))
        return array

    monkeypatch.setattr(image_labels, "_map", swap_after_the_first)
    found = open_image_labels(store, KEY, digest=LABELS.digest)
    assert opened == [IDS, TOP, CONFIDENCE] * 2
    assert (found.seal.release, int(found.ids[0])) == (8, 6000)


def test_nothing_is_published_that_is_not_the_whole_collection(store, collection):
    ids, vectors = collection
    with pytest.raises(IntegrityError, match="expected 201 images to label, got 200"):
        seal(store, collection, images=IMAGES + 1)
    with pytest.raises(IntegrityError, match="got more"):
        seal(store, collection, images=IMAGES - 1)
    with pytest.raises(IntegrityError, match="an image came twice"):
        seal(store, (np.where(ids == 1000, 1001, ids), vectors))
    with pytest.raises(NotFoundError, match="materialize image_labels"):
        open_image_labels(store, KEY, digest=LABELS.digest)


def test_vectors_of_another_label_set_are_refused(store):
    embedded = ENCODER.encode_texts(LABELS.labels)
    written = write_label_vectors(store, ENCODER.spec, label_set=LABELS, vectors=embedded, logit_scale=20.0)
    other = replace(LABELS, labels=LABELS.labels[::-1])
    with pytest.raises(IntegrityError, match="not those of colours version 1"):
        seal_image_labels(
            store, KEY, label_set=other, label_vectors=LabelVectors(written, embedded), release=1, images=0, chunks=[]
        )


@pytest.mark.parametrize("name", [IDS, TOP, CONFIDENCE])
def test_damage_is_noticed(store, collection, name):
    seal(store, collection)
    check_image_labels(store, KEY, digest=LABELS.digest)
    path = store.image_labels_dir(KEY, LABELS.digest) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=name):
        check_image_labels(store, KEY, digest=LABELS.digest)
    path.write_bytes(content[:-8])
    with pytest.raises(IntegrityError, match="materialize image_labels"):
        open_image_labels(store, KEY, digest=LABELS.digest)
    path.unlink()
    with pytest.raises(IntegrityError, match="files are missing"):
        open_image_labels(store, KEY, digest=LABELS.digest)


def test_labels_that_were_removed_are_not_found(store, collection):
    seal(store, collection)
    shutil.rmtree(store.image_labels_dir(KEY, LABELS.digest))
    with pytest.raises(NotFoundError, match="no labels of the set"):
        open_image_labels(store, KEY, digest=LABELS.digest)
