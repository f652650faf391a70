"""Statements of releases and their id maps: written, read back, refused when they are not what they should be."""

import json

import numpy as np
import pytest

from clip_pipeline.core.errors import IntegrityError, NotFoundError
from clip_pipeline.core.release import (
    Release,
    Segment,
    SegmentBatch,
    read_current_release,
    read_release,
    read_segment_rows,
    release_numbers,
    write_release,
)
from clip_pipeline.core.store import Store

BATCHES = (SegmentBatch("b0000001", "d1", 0, 2), SegmentBatch("b0000002", "d2", 2, 1))
SEGMENT = Segment("1-0", "flat-fp16", 3, 1, BATCHES, "s.faiss", "ids.npy", "dead.npy", {"s.faiss": "f"})
RELEASE = Release(3, "e", "m", "f", 4, "inner-product", 2, (SEGMENT,), 0.99, 10, 2, 2, "r", "c", "2025-01-01T00:00:00Z")
KEY = "encoder"


@pytest.fixture
def store(tmp_path):
    """A store with the release written but not published."""
    store = Store(tmp_path)
    store.release_dir(KEY, 3).mkdir(parents=True)
    write_release(store.release_dir(KEY, 3), RELEASE)
    return store


def test_a_release_is_read_back_as_it_was_written(store):
    assert read_release(store, KEY, 3) == RELEASE


def test_the_current_release_is_the_published_one(store):
    assert read_current_release(store, KEY) is None
    store.set_current_release(KEY, 3)
    assert read_current_release(store, KEY) == RELEASE


def test_a_release_that_does_not_exist_is_not_found(store):
    with pytest.raises(NotFoundError, match="release 4"):
        read_release(store, KEY, 4)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"segments": [{}]}', '{"segments": 3}', "\x00"])
def test_a_statement_that_is_none_is_an_integrity_error(store, text):
    (store.release_dir(KEY, 3) / "release.json").write_text(text)
    with pytest.raises(IntegrityError, match="is not a release"):
        read_release(store, KEY, 3)


def test_a_field_of_a_later_version_is_not_ignored(store):
    path = store.release_dir(KEY, 3) / "release.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"codec": "new"}))
    with pytest.raises(IntegrityError, match="codec"):
        read_release(store, KEY, 3)


def test_numbers_are_those_of_complete_releases_in_order(store):
    store.release_dir(KEY, 12).mkdir()
    store.set_current_release(KEY, 3)
    (store.releases_dir(KEY) / ".tmp-0000013-abc").mkdir()
    assert release_numbers(store, KEY) == [3, 12]
    assert release_numbers(store, "another") == []


def test_the_id_map_of_a_segment_is_its_ids_and_those_hidden(tmp_path):
    np.save(tmp_path / "ids.npy", np.array([5, 3, 9]))
    np.save(tmp_path / "dead.npy", np.array([3]))
    rows = read_segment_rows(tmp_path, SEGMENT)
    assert (rows.ids.tolist(), rows.dead.tolist()) == ([5, 3, 9], [3])


@pytest.mark.parametrize(
    ("ids", "dead"),
    [
        (np.array([5, 3]), np.array([3])),
        (np.array([5, 3, 9]), np.array([3, 5])),
        (np.array([5, 3, 9], np.int32), np.array([3])),
        (np.array([[5, 3, 9]]), np.array([3])),
        (np.array([5, 3, 9]), None),
        (np.array([5, "x", 9], object), np.array([3])),
    ],
)
def test_an_id_map_that_does_not_fit_is_an_integrity_error(tmp_path, ids, dead):
    np.save(tmp_path / "ids.npy", ids)
    if dead is not None:
        np.save(tmp_path / "dead.npy", dead)
    with pytest.raises(IntegrityError, match="segment 1-0"):
        read_segment_rows(tmp_path, SEGMENT)
