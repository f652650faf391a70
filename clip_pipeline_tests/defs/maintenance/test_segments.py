"""Segments of the published release are tidied when that is worth it; what it shows stays the same."""

import pytest

from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import read_manifest
from clip_pipeline.core.release import read_current_release
from clip_pipeline.defs.maintenance.segments import compact_segments, worn_segments
from clip_pipeline.index import compact as index_compact
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.publishing import outstanding, recorded_release

MAX_SEGMENTS = 3


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch):
    monkeypatch.setattr(index_compact, "MAX_SEGMENTS", MAX_SEGMENTS)


def compact(home):
    return compact_segments(home.ledger, home.store, run_id="r")


def one_merge_each(home, count):
    for number in range(count):
        home.add(f"{number}.jpg", f"{number} too.jpg")
        home.merge()


def test_many_small_segments_become_one_and_the_ledger_knows_the_new_release(small_home):
    one_merge_each(small_home, MAX_SEGMENTS + 1)
    answers, counts = small_home.answers(), balance(small_home.ledger)
    assert len(worn_segments(small_home.store)[1]) == MAX_SEGMENTS + 1
    result = compact(small_home)
    assert result
    assert len(result.release.segments) == 1
    assert recorded_release(small_home.ledger, small_home.spec.key) == result.release.number
    assert small_home.answers() == answers
    assert balance(small_home.ledger) == counts
    assert outstanding(small_home.ledger).is_empty
    assert small_home.faults() == []
    assert compact(small_home) is None


def test_tombstones_are_dropped_once_they_are_many(small_home):
    one_merge_each(small_home, 3)
    small_home.remove("1.jpg")
    small_home.merge()
    answers = small_home.answers()
    before = read_current_release(small_home.store, small_home.spec.key)
    assert before
    assert sum(segment.dead for segment in before.segments) == 1
    result = compact(small_home)
    assert result
    assert sum(segment.dead for segment in result.release.segments) == 0
    assert small_home.answers() == answers
    assert small_home.faults() == []


@pytest.mark.parametrize("releases", [0, 2])
def test_a_release_in_good_shape_or_none_at_all_is_left_alone(small_home, releases):
    one_merge_each(small_home, releases)
    assert compact(small_home) is None


def test_what_is_embedded_but_not_merged_yet_does_not_get_in_and_is_merged_afterwards(small_home):
    one_merge_each(small_home, MAX_SEGMENTS + 1)
    small_home.add("late.jpg")
    result = compact(small_home)
    assert result
    assert result.release.images == 2 * (MAX_SEGMENTS + 1)
    assert outstanding(small_home.ledger).embedded == 1
    small_home.merge()
    assert small_home.faults() == []
    assert balance(small_home.ledger).images["indexed"] == 2 * (MAX_SEGMENTS + 1) + 1


def test_a_batch_that_lost_an_image_and_awaits_its_merge_is_waited_for(small_home):
    one_merge_each(small_home, MAX_SEGMENTS + 1)
    first = BatchKey(1)
    manifest = read_manifest(small_home.store, first)
    small_home.embed(first, manifest, failing=["0.jpg"], seed="anew ")
    assert compact(small_home) is None
    small_home.merge()
    assert compact(small_home)
    assert small_home.faults() == []


def test_a_damaged_release_is_a_fault_that_is_told(small_home):
    one_merge_each(small_home, MAX_SEGMENTS + 1)
    release = read_current_release(small_home.store, small_home.spec.key)
    assert release
    path = small_home.store.release_dir(small_home.spec.key, release.number) / release.segments[0].ids_file
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content + b"x")
    with pytest.raises(IntegrityError, match="recorded digest"):
        compact(small_home)
