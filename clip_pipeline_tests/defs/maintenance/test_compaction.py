"""Many batches become one: the same images under the same ids, found by the same searches, at every moment."""

import numpy as np
import pytest

from clip_pipeline.core.embeddings import VECTORS, read_embeddings
from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.maintenance_lock import maintenance_lock
from clip_pipeline.core.manifest import read_manifest
from clip_pipeline.core.release import read_current_release
from clip_pipeline.defs.maintenance import compaction
from clip_pipeline.defs.maintenance.compaction import compact_batches, planned_groups
from clip_pipeline.index.publish import prune_releases
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.compaction import all_retired
from clip_pipeline.ledger.planning import batch_keys, batches_to_embed, manifest_digest
from clip_pipeline.ledger.publishing import live_vectors, outstanding
from clip_pipeline_tests.small_home import a_day_ago

SIZE = 100


def compact(home, *, batch_size=SIZE, **options):
    return compact_batches(
        home.ledger, home.store, batch_size=batch_size, older_than=a_day_ago(), run_id="compaction", **options
    )


def released_batches(home):
    release = read_current_release(home.store, home.spec.key)
    assert release
    return {batch.key for segment in release.segments for batch in segment.batches}


@pytest.fixture
def ten(small_home):
    """Ten batches of two images, one failed image, one copy, all merged long ago."""
    small_home.add_many(9)
    small_home.add("good.jpg", "bad.jpg", failing=["bad.jpg"], duplicates={"copy.jpg": "good.jpg"})
    small_home.merge()
    small_home.age()
    return small_home


def test_small_batches_become_one_and_searches_find_the_same_before_and_after_the_merge(ten):
    answers, ids, counts = ten.answers(), live_vectors(ten.ledger)[0].tolist(), balance(ten.ledger)
    done = compact(ten)
    (made,) = done.compacted
    assert made.compacted_from == tuple(BatchKey(n) for n in range(1, 11))
    assert (made.images, made.quarantined, done.postponed) == (19, 1, 0)
    assert batch_keys(ten.ledger) == [made.key]
    assert ten.faults() == []
    assert ten.answers() == answers
    assert outstanding(ten.ledger).batches.keys() == {made.key}
    merged = ten.merge()
    assert merged.published
    assert released_batches(ten) == {str(made.key)}
    assert ten.faults() == []
    assert ten.answers() == answers
    assert live_vectors(ten.ledger)[0].tolist() == ids
    assert balance(ten.ledger) == counts
    assert outstanding(ten.ledger).is_empty


def test_vectors_are_copied_bit_by_bit(ten):
    def stored():
        found = {}
        for key in batch_keys(ten.ledger):
            sealed = read_embeddings(ten.store, ten.spec.key, key)
            found |= dict(zip(sealed.rows["image_id"].tolist(), np.asarray(sealed.vectors).tolist(), strict=True))
        return found

    before = stored()
    compact(ten)
    assert stored() == before


def test_the_new_manifest_lists_failed_images_too_so_that_embedding_it_again_tries_them(ten):
    (made,) = compact(ten).compacted
    manifest = read_manifest(ten.store, made.key, digest=manifest_digest(ten.ledger, made.key))
    assert len(manifest.rows) == 20
    ten.embed(made.key, manifest, seed="anew ")
    ten.merge()
    assert ten.faults() == []
    assert balance(ten.ledger).images["indexed"] == 20
    assert balance(ten.ledger).images["failed"] == 0


def test_no_embedding_is_asked_for(ten):
    compact(ten)
    assert batches_to_embed(ten.ledger, most=100) == []
    ten.merge()
    assert batches_to_embed(ten.ledger, most=100) == []


def test_old_files_go_only_after_no_release_on_disk_needs_them(ten):
    compact(ten)
    assert compact(ten).removed == ()
    old = BatchKey(1)
    ten.age_retired()
    assert compact(ten).removed == ()
    ten.merge()
    assert compact(ten).removed == (), "the release before the current one still names them"
    prune_releases(ten.store, ten.spec.key, keep=1)
    removed = compact(ten).removed
    assert len(removed) == 10
    assert ten.store.files_of_batch(old) == []
    assert [batch.is_removed for batch in all_retired(ten.ledger)] == [True] * 10
    assert ten.faults() == []
    assert compact(ten).removed == ()


def test_a_batch_that_is_young_busy_or_large_is_left_alone(small_home):
    small_home.add_many(9)
    small_home.merge()
    assert compact(small_home).compacted == ()
    small_home.age()
    assert compact(small_home, busy={BatchKey(1), BatchKey(2)}).compacted == ()
    assert compact(small_home, batch_size=4).compacted == ()
    groups = planned_groups(small_home.ledger, batch_size=SIZE, older_than=a_day_ago())
    assert [[batch.key.number for batch in group] for group in groups] == [list(range(1, 10))]


def test_an_image_that_moved_between_batches_takes_its_current_vector_along(small_home):
    """A deleted image that came back with another batch has a vector in both; only that of the second counts."""
    small_home.add_many(8)
    small_home.add("moved.jpg")
    small_home.merge()
    small_home.remove("moved.jpg")
    small_home.merge()
    small_home.add("x.jpg", duplicates={"moved twin.jpg": "moved.jpg"}, seed="anew ")
    small_home.merge()
    small_home.age()
    answers = small_home.answers()
    (made,) = compact(small_home).compacted
    assert made.images == 18
    small_home.merge()
    assert small_home.answers() == answers
    assert small_home.faults() == []


def test_what_happens_meanwhile_postpones_a_group_and_leaves_nothing_behind(ten, monkeypatch):
    reserve = compaction.reserve_batch

    def reserve_while_a_file_goes(ledger):
        ten.remove("0-0.jpg")
        return reserve(ledger)

    monkeypatch.setattr(compaction, "reserve_batch", reserve_while_a_file_goes)
    done = compact(ten)
    assert (done.compacted, done.postponed) == ((), 1)
    assert [key.number for key in ten.store.stored_batches()] == list(range(1, 11))
    assert len(batch_keys(ten.ledger)) == 10
    ten.merge()
    assert ten.faults() == []


def test_damaged_embeddings_are_not_compacted_and_others_are(ten):
    ten.add_many(8, of=45)
    ten.merge()
    ten.age()
    (ten.store.embeddings_dir(ten.spec.key, BatchKey(3)) / VECTORS).write_bytes(b"damaged")
    with pytest.raises(StoreError, match="1 of 4 groups were not compacted: b0000001"):
        compact(ten)
    assert len(batch_keys(ten.ledger)) == 15
    assert {path.name for path in ten.store.root.glob("manifests/.tmp*")} == set()
    assert [name for name, _ in ten.faults()] == ["embeddings", "embeddings"]


def test_only_one_maintains_a_store_at_a_time(ten):
    with maintenance_lock(ten.store), pytest.raises(StoreError, match="under way"):
        compact(ten)
    assert len(compact(ten).compacted) == 1


def test_compacting_again_and_again_keeps_few_batches_and_everything_findable(small_home):
    for round_ in range(4):
        for number in range(8):
            small_home.add(f"{round_}-{number}-a.jpg", f"{round_}-{number}-b.jpg")
        small_home.merge()
        small_home.age()
        compact(small_home)
        small_home.merge()
        small_home.age()
        assert small_home.faults() == []
    assert len(batch_keys(small_home.ledger)) <= 5
    assert balance(small_home.ledger).images["indexed"] == 64
