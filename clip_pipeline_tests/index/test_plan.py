"""Plans against a slow obvious version that keeps every row in a dictionary."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.release import Release, Segment, SegmentBatch, SegmentRows
from clip_pipeline.index.plan import LiveImages, content_of, plan_release
from clip_pipeline.index.staging import segment_batches
from clip_pipeline_tests.index.sealing import live_of


class World:
    """Sealed batches `number -> (digest, ids)` and releases made by carrying out plans, id maps in memory."""

    def __init__(self):
        self.sealed, self.rows, self.made = {}, {}, 0
        self.release: Release | None = None

    def rows_of(self, segment):
        """The id map of a segment of the current release."""
        assert self.release
        return self.rows[self.release.number][segment.name]

    def plan(self, live):
        return plan_release(
            self.release,
            {BatchKey(number): digest for number, (digest, _) in self.sealed.items()},
            live=live_of(live),
            segment_rows=self.rows_of,
            batch_ids=lambda batch: np.array(self.sealed[batch.number][1], np.int64),
        )

    def carry_out(self, plan):
        self.made += 1
        rows, segments = {}, []
        for kept in plan.kept:
            old = self.rows[plan.parent][kept.segment.name]
            rows[kept.segment.name] = SegmentRows(old.ids, kept.dead)
            segments.append(kept.segment)
        if plan.additions:
            ids = np.concatenate([a.image_ids for a in plan.additions])
            rows[f"s{self.made}"] = SegmentRows(ids, np.empty(0, np.int64))
            segments.append(segment_named(f"s{self.made}", segment_batches(plan.additions)))
        self.rows[self.made] = rows
        self.release = release_of(self.made, segments)

    def live_rows(self):
        """(image id, batch number, digest) of every live row of the release, with repetition."""
        found = []
        for segment in self.release.segments if self.release else ():
            rows = self.rows_of(segment)
            for b in segment.batches:
                alive = set(rows.ids[b.offset : b.offset + b.rows].tolist()) - set(rows.dead.tolist())
                found += [(image_id, BatchKey.parse(b.key).number, b.digest) for image_id in alive]
        return Counter(found)


def segment_named(name, batches):
    return Segment(name, "flat-fp16", sum(b.rows for b in batches), 0, tuple(batches), "", "", None, {})


def release_of(number, segments):
    return Release(number, "e", "m", "f", 4, "inner-product", 0, tuple(segments), 1.0, 10, 0, None, "r", "c", "t")


def naive_content(sealed, live):
    rows = [(image_id, number, *sealed.get(number, ("", ()))) for image_id, number in live.items()]
    return Counter((image_id, number, digest) for image_id, number, digest, ids in rows if image_id in ids)


IDS = st.integers(1, 12)
STEP = st.one_of(
    st.tuples(st.just("seal"), st.integers(1, 4), st.integers(0, 2), st.frozensets(IDS)),
    st.tuples(st.just("unseal"), st.integers(1, 4)),
    st.tuples(st.just("live"), st.dictionaries(IDS, st.integers(1, 5))),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=12))
def test_any_history_of_releases_holds_exactly_what_the_naive_version_says(steps):
    world, live = World(), {}
    for step in steps:
        match step:
            case "seal", number, version, ids:
                # The digest covers the content: equal digest, equal ids.
                world.sealed[number] = (f"{version}:{sorted(ids)}", sorted(ids))
            case "unseal", number:
                world.sealed.pop(number, None)
            case "live", view:
                live = view
        plan = world.plan(live)
        before = world.live_rows() if world.release else None
        expected = naive_content(world.sealed, live)
        if plan.changes_nothing(world.release):
            assert before == expected
        else:
            assert world.release is None or before != expected or plan.dropped
            world.carry_out(plan)
        assert world.live_rows() == expected
        assert plan.content.image_ids.tolist() == sorted(image_id for image_id, _, _ in expected)
        assert plan.missing.tolist() == sorted(set(live) - {image_id for image_id, _, _ in expected})
        for rows in world.rows[world.made].values():
            assert len(np.unique(rows.ids)) == len(rows.ids)
            assert rows.dead.tolist() == sorted(rows.dead.tolist())
        again = world.plan(live)
        assert again.changes_nothing(world.release)


@pytest.fixture
def world():
    """Batches 1 (ids 1 to 3) and 2 (ids 4 to 6), both released in one segment."""
    world = World()
    world.sealed = {1: ("d1", [1, 2, 3]), 2: ("d2", [4, 5, 6])}
    world.carry_out(world.plan(dict.fromkeys([1, 2, 3], 1) | dict.fromkeys([4, 5, 6], 2)))
    return world


ALL = dict.fromkeys([1, 2, 3], 1) | dict.fromkeys([4, 5, 6], 2)


def test_a_new_batch_is_added_and_the_old_segment_kept_unchanged(world):
    world.sealed[3] = ("d3", [7, 8])
    plan = world.plan(ALL | {7: 3, 8: 3})
    assert [(k.segment.name, k.changed, k.dead.tolist()) for k in plan.kept] == [("s1", False, [])]
    assert [(a.batch, a.digest, a.image_ids.tolist()) for a in plan.additions] == [(BatchKey(3), "d3", [7, 8])]
    assert plan.rows_added == 2
    assert not plan.changes_nothing(world.release)


def test_a_sealed_batch_without_live_images_is_not_added(world):
    world.sealed[3] = ("d3", [7, 8])
    assert world.plan(ALL).changes_nothing(world.release)


def test_a_deleted_image_becomes_a_dead_id_and_comes_back_without_new_rows(world):
    without = {i: b for i, b in ALL.items() if i != 5}
    plan = world.plan(without)
    assert [k.dead.tolist() for k in plan.kept] == [[5]]
    assert not plan.changes_nothing(world.release)
    world.carry_out(plan)
    assert world.plan(without).changes_nothing(world.release)
    back = world.plan(ALL)
    assert [(k.dead.tolist(), k.changed) for k in back.kept] == [([], True)]
    assert back.additions == ()


def test_a_batch_embedded_anew_is_dead_in_the_old_segment_and_added(world):
    world.sealed[1] = ("other", [1, 2, 3])
    plan = world.plan(ALL)
    assert [k.dead.tolist() for k in plan.kept] == [[1, 2, 3]]
    assert [(a.digest, a.image_ids.tolist()) for a in plan.additions] == [("other", [1, 2, 3])]


def test_a_segment_without_live_rows_is_dropped(world):
    plan = world.plan({})
    assert (plan.kept, plan.dropped, len(plan.content)) == ((), ("s1",), 0)
    assert not plan.changes_nothing(world.release)


def test_images_of_an_unsealed_batch_or_absent_from_their_batch_are_missing(world):
    plan = world.plan(ALL | {90: 9, 91: 1})
    assert plan.missing.tolist() == [90, 91]
    assert plan.changes_nothing(world.release)


def test_the_first_plan_of_an_empty_collection_changes_something():
    plan = World().plan({})
    assert not plan.changes_nothing(None)
    assert (plan.parent, plan.kept, plan.additions) == (None, (), ())


def test_only_batches_with_something_to_add_are_read(world):
    world.sealed[3] = ("d3", [7])
    read = []
    plan_release(
        world.release,
        {BatchKey(number): digest for number, (digest, _) in world.sealed.items()},
        live=live_of(ALL | {7: 3}),
        segment_rows=lambda segment: world.rows[1][segment.name],
        batch_ids=lambda batch: read.append(batch) or np.array([7]),
    )
    assert read == [BatchKey(3)]


def test_the_content_of_a_release_is_its_live_rows_with_their_batches(world):
    world.carry_out(world.plan({i: b for i, b in ALL.items() if i not in (2, 6)}))
    content = content_of(world.release, lambda segment: world.rows[2][segment.name])
    assert dict(zip(content.image_ids.tolist(), content.batch_numbers.tolist(), strict=True)) == {
        1: 1,
        3: 1,
        4: 2,
        5: 2,
    }


@pytest.mark.parametrize(("ids", "batches"), [([2, 1], [1, 1]), ([1, 1], [1, 2]), ([1, 2], [1])])
def test_live_images_refuse_unsorted_repeated_or_unaligned_arrays(ids, batches):
    with pytest.raises(ValueError, match="expected"):
        LiveImages(np.array(ids), np.array(batches))


def test_a_million_images_are_planned_without_a_loop_over_images():
    batches, rows = 100, 10_000
    segments = [segment_named(f"s{b}", (SegmentBatch(str(BatchKey(b)), "d", 0, rows),)) for b in range(batches)]
    ids = {f"s{b}": np.arange(b, batches * rows, batches) for b in range(batches)}
    live = LiveImages(np.arange(1, batches * rows), np.arange(1, batches * rows) % batches)
    plan = plan_release(
        release_of(1, segments),
        dict.fromkeys(map(BatchKey, range(1, batches)), "d"),
        live=live,
        segment_rows=lambda segment: SegmentRows(ids[segment.name], np.empty(0, np.int64)),
        batch_ids=lambda batch: pytest.fail(f"{batch} has nothing to add"),
    )
    assert plan.dropped == ("s0",)
    assert len(plan.content) == (batches - 1) * rows
    assert plan.missing.tolist() == list(range(batches, batches * rows, batches))


def test_a_row_that_two_segments_of_the_parent_hold_alive_stays_alive_in_one(world):
    """No plan makes such a parent; one that came about otherwise is healed by the next merge."""
    world.rows[1]["twin"] = world.rows[1]["s1"]
    twin = segment_named("twin", world.release.segments[0].batches)
    world.release = release_of(1, (*world.release.segments, twin))
    plan = world.plan(ALL)
    assert [k.segment.name for k in plan.kept] == ["s1"]
    assert (plan.dropped, plan.rows_added) == (("twin",), 0)
