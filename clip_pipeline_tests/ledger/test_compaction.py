"""The ledger's side of compaction: what is finished, and a swap that happens whole or not at all."""

import pytest
from sqlalchemy import select, update

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.compaction import (
    SealedAs,
    all_retired,
    contents_of,
    finished_batches,
    record_removed,
    removable_batches,
    reserve_batch,
    successor_of,
    swap_batches,
)
from clip_pipeline.ledger.embedding_results import begin_embedding
from clip_pipeline.ledger.inspection_results import files_of_batch
from clip_pipeline.ledger.jobs import give_up_batch
from clip_pipeline.ledger.planning import batch_keys, batches_to_embed, batches_to_inspect
from clip_pipeline.ledger.publishing import live_vectors, outstanding
from clip_pipeline.ledger.registration import Submission, register_scan
from clip_pipeline.ledger.schema import batches, images
from clip_pipeline_tests.ledger import steps

NEVER, ALWAYS = "2000-01-01T00:00:00.000Z", "2100-01-01T00:00:00.000Z"
SEALED = SealedAs("manifest", "embeddings")


def index(ledger, *contents, number=1, failing=None):
    """One batch for each mapping of path to content, all in release `number`."""
    for one in contents:
        steps.register(ledger, *one)
        (batch,) = steps.plan(ledger)
        rows = steps.inspect(ledger, batch, one, digest="m")
        steps.embed(ledger, batch, rows, failing=failing)
    steps.merge(ledger, number=number)


def finished(ledger, *, older_than=ALWAYS, fewer_than=10):
    return [
        (batch.key.number, batch.images)
        for batch in finished_batches(ledger, older_than=older_than, fewer_than=fewer_than)
    ]


def read(ledger, *numbers):
    return contents_of(ledger, [BatchKey(number) for number in numbers], older_than=ALWAYS)


def remove(ledger, file_id):
    register_scan(ledger, [], gone=[file_id], submission=Submission("watch"))


@pytest.fixture
def three(ledger):
    index(ledger, {"/a": "1", "/b": "2"}, {"/c": "3", "/a copy": "1"}, {"/d": "4"})
    return ledger


def test_batches_that_are_indexed_and_left_alone_are_finished(three):
    assert finished(three) == [(1, 2), (2, 1), (3, 1)]
    assert finished(three, fewer_than=2) == [(2, 1), (3, 1)]
    assert finished(three, older_than=NEVER) == []


def test_a_batch_that_awaits_anything_is_not_finished(three):
    steps.register(three, "/e")
    (planned,) = steps.plan(three)
    assert planned.number == 4
    assert finished(three) == [(1, 2), (2, 1), (3, 1)]
    rows = steps.inspect(three, planned, {"/e": "5"}, digest="m")
    assert len(finished(three)) == 3
    steps.embed(three, planned, rows)
    assert len(finished(three)) == 3
    steps.merge(three, number=2)
    assert finished(three)[-1] == (4, 1)
    give_up_batch(three, 4, error="it was given up")
    assert len(finished(three)) == 3


def test_a_batch_whose_deleted_image_is_still_shown_is_not_finished(three):
    remove(three, 2)
    assert finished(three) == [(2, 1), (3, 1)]
    steps.merge(three, number=2)
    assert finished(three) == [(1, 1), (2, 1), (3, 1)]


def test_a_batch_that_all_its_files_left_before_inspection_is_finished(three):
    steps.register(three, "/e")
    (planned,) = steps.plan(three)
    with three.read() as connection:
        assert connection.execute(select(batches.c.manifest_digest).where(batches.c.number == 4)).scalar() is None
    remove(three, files_of_batch(three, planned)[0].file_id)
    assert finished(three)[-1] == (4, 0)


def test_a_failed_image_does_not_keep_a_batch_from_being_finished_and_goes_over_with_its_reason(ledger):
    index(ledger, {"/a": "1", "/b": "2"}, failing={"/b": ReasonCode.TRUNCATED})
    assert finished(ledger) == [(1, 1)]
    contents = read(ledger, 1)
    assert contents
    (quarantined,) = contents.quarantined
    assert (quarantined.row.path, quarantined.reason.code) == ("/b", ReasonCode.TRUNCATED)
    assert [row.path for row in contents.embedded] == ["/a"]


def test_the_swap_moves_every_image_and_file_and_keeps_ids_states_and_totals(three):
    before, contents = balance(three), read(three, 1, 2, 3)
    ids_before = live_vectors(three)[0].tolist()
    assert contents
    target = reserve_batch(three)
    assert swap_batches(three, contents, target=target, sealed=SEALED, run_id="r")
    assert target == BatchKey(4)
    assert balance(three) == before
    ids, numbers = live_vectors(three)
    assert (ids.tolist(), set(numbers.tolist())) == (ids_before, {4})
    assert batch_keys(three) == [target]
    assert {file.path for file in files_of_batch(three, target)} == {"/a", "/b", "/c", "/a copy", "/d"}
    assert [(r.key.number, r.compacted_into, r.is_removed) for r in all_retired(three)] == [
        (1, target, False), (2, target, False), (3, target, False),
    ]  # fmt: skip
    assert successor_of(three, BatchKey(2)) == target
    assert successor_of(three, target) is None


def test_a_compacted_batch_asks_for_a_merge_and_for_nothing_else(three):
    contents, target = read(three, 1, 2, 3), reserve_batch(three)
    assert contents
    swap_batches(three, contents, target=target, sealed=SEALED, run_id="r")
    assert batches_to_inspect(three, most=9) == batches_to_embed(three, most=9) == []
    assert outstanding(three).batches == {target: "embeddings"}
    assert finished(three) == []
    steps.merge(three, number=2)
    assert outstanding(three).is_empty
    assert finished(three) == [(4, 4)]


@pytest.mark.parametrize("change", ["a file is removed", "a run begins", "a path changes", "a batch is gone"])
def test_nothing_is_swapped_when_something_happened_since(three, change):
    contents, target = read(three, 1, 2), reserve_batch(three)
    assert contents
    if change == "a file is removed":
        remove(three, 2)
    elif change == "a run begins":
        begin_embedding(three, BatchKey(1), run_id="other")
    elif change == "a path changes":
        remove(three, 1)  # its copy in the second batch stands for the image from now on
    else:
        other = reserve_batch(three)
        first = read(three, 1)
        assert first
        assert swap_batches(three, first, target=other, sealed=SEALED, run_id="r")
    before = batch_keys(three)
    assert not swap_batches(three, contents, target=target, sealed=SEALED, run_id="r")
    assert batch_keys(three) == before
    assert target not in before


def test_a_batch_that_a_run_has_just_begun_is_left_alone(three):
    with three.write() as connection:
        connection.execute(update(batches).values(updated_at=NEVER))
    keys = [BatchKey(1), BatchKey(2)]
    assert contents_of(three, keys, older_than=ALWAYS)
    begin_embedding(three, BatchKey(2), run_id="other")
    assert contents_of(three, keys, older_than="2001-01-01T00:00:00.000Z") is None


def test_a_reserved_number_is_never_given_to_a_planned_batch(three):
    reserved = reserve_batch(three)
    steps.register(three, "/e")
    (planned,) = steps.plan(three)
    assert planned.number > reserved.number
    assert reserved not in batch_keys(three)


def test_batches_without_images_become_one_that_nothing_waits_for(ledger):
    index(ledger, {"/a": "1"}, {"/b": "2"})
    for file_id in (1, 2):
        remove(ledger, file_id)
    steps.merge(ledger, number=2)
    contents, target = read(ledger, 1, 2), reserve_batch(ledger)
    assert contents
    assert contents.embedded == contents.quarantined == ()
    assert swap_batches(ledger, contents, target=target, sealed=SealedAs("manifest", None), run_id="r")
    assert outstanding(ledger).is_empty
    assert batches_to_embed(ledger, most=9) == batches_to_inspect(ledger, most=9) == []
    with ledger.read() as connection:
        assert set(connection.execute(select(images.c.batch)).scalars()) == {target.number}


def test_files_of_retired_batches_are_removed_once(three):
    contents, target = read(three, 1, 2), reserve_batch(three)
    assert contents
    swap_batches(three, contents, target=target, sealed=SEALED, run_id="r")
    assert removable_batches(three, retired_before=NEVER) == []
    assert removable_batches(three, retired_before=ALWAYS) == [BatchKey(1), BatchKey(2)]
    record_removed(three, [BatchKey(1)])
    assert removable_batches(three, retired_before=ALWAYS) == [BatchKey(2)]
    assert successor_of(three, BatchKey(1)) == target
