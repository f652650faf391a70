"""Duplicates, failures, removals and revivals: where every file and image ends."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.inspection_results import files_of_batch, record_inspection
from clip_pipeline.ledger.lookup import failed_files, failures_by_code, images_by_id
from clip_pipeline.ledger.planning import batches_to_embed
from clip_pipeline.ledger.publishing import live_vectors, outstanding, record_release
from clip_pipeline.ledger.registration import Submission, register_scan
from clip_pipeline.ledger.removal import delete_files
from clip_pipeline.ledger.schema import metadata
from clip_pipeline_tests.ledger.steps import (
    ENCODER,
    UNREADABLE,
    embed,
    facts,
    finish,
    found,
    index_all,
    inspect,
    merge,
    plan,
    register,
)


def delete(ledger: Ledger, *file_ids: int) -> None:
    with ledger.write() as connection:
        delete_files(connection, list(file_ids))


def test_the_first_of_equal_files_stands_and_the_others_are_listed_with_it(ledger: Ledger):
    index_all(ledger, {"/b": "same", "/a": "same", "/c": "other"})
    hits = images_by_id(ledger, [1, 2])
    assert {(hit.path, hit.duplicates) for hit in hits.values()} == {("/a", ("/b",)), ("/c", ())}


def test_deleting_the_standing_file_promotes_its_duplicate(ledger: Ledger):
    index_all(ledger, {"/a": "same", "/b": "same"})
    delete(ledger, 1)
    assert images_by_id(ledger, [1])[1].path == "/b"
    assert outstanding(ledger).is_empty
    assert balance(ledger).holds


def test_deleting_the_last_file_takes_the_image_out_at_the_next_merge(ledger: Ledger):
    index_all(ledger, {"/a": "1", "/b": "2"})
    delete(ledger, 1)
    assert images_by_id(ledger, [1]) == {}
    assert outstanding(ledger).leaving == 1
    merge(ledger, number=2)
    assert outstanding(ledger).is_empty
    assert live_vectors(ledger)[0].tolist() == [2]


def test_a_file_that_comes_back_before_the_merge_is_searchable_without_work(ledger: Ledger):
    index_all(ledger, {"/a": "1"})
    delete(ledger, 1)
    register(ledger, "/a")
    (batch,) = plan(ledger)
    assert inspect(ledger, batch, {"/a": "1"}) == []
    assert balance(ledger).images["indexed"] == 1
    assert outstanding(ledger).is_empty


def test_a_file_that_comes_back_after_the_merge_is_embedded_again_under_its_id(ledger: Ledger):
    index_all(ledger, {"/a": "1"})
    delete(ledger, 1)
    merge(ledger, number=2)
    register(ledger, "/a")
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, {"/a": "1"})
    assert [row.image_id for row in rows] == [1]
    embed(ledger, batch, rows)
    merge(ledger, number=3)
    assert live_vectors(ledger)[1].tolist() == [batch.number]
    assert balance(ledger).holds


def test_bad_content_fails_every_file_that_holds_it(ledger: Ledger):
    register(ledger, "/a", "/b")
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, {"/a": "same", "/b": "same"})
    embed(ledger, batch, rows, failing={"/a": ReasonCode.CORRUPT})
    assert [(f.path, f.reason) for f in failed_files(ledger)] == [("/a", "corrupt"), ("/b", "corrupt")]
    assert failures_by_code(ledger) == {"corrupt": 2}
    assert balance(ledger).holds


def test_a_vanished_file_hands_its_content_to_a_duplicate(ledger: Ledger):
    register(ledger, "/a", "/b")
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, {"/a": "same", "/b": "same"})
    embed(ledger, batch, rows, failing={"/a": ReasonCode.MISSING})
    assert balance(ledger).files["registered"] == 1
    finish(ledger, {"/b": "same"})
    assert images_by_id(ledger, [1])[1].path == "/b"
    assert [f.path for f in failed_files(ledger)] == ["/a"]
    assert balance(ledger).holds


def test_failures_can_be_listed_by_reason(ledger: Ledger):
    register(ledger, "/gone", "/cut")
    finish(ledger, {"/cut": UNREADABLE})
    assert [f.path for f in failed_files(ledger, code="truncated")] == ["/cut"]
    assert [f.path for f in failed_files(ledger, code="missing")] == ["/gone"]


def test_embedding_a_failed_batch_again_heals_its_images(ledger: Ledger):
    register(ledger, "/a", "/b")
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, {"/a": "same", "/b": "same"})
    embed(ledger, batch, rows, failing={"/a": ReasonCode.OUT_OF_MEMORY})
    embed(ledger, batch, rows)
    merge(ledger)
    found = balance(ledger)
    assert (found.files["indexed"], found.files["duplicate"], found.files["failed"]) == (1, 1, 0)
    assert found.holds


def test_sealing_a_manifest_again_gives_its_failed_images_another_try(ledger: Ledger):
    register(ledger, "/a")
    (batch,) = plan(ledger)
    embed(ledger, batch, inspect(ledger, batch, {"/a": "1"}, digest="m"), failing={"/a": ReasonCode.DECODER_HUNG})
    assert batches_to_embed(ledger, most=1) == []
    rows = inspect(ledger, batch, {"/a": "1"}, digest="m", run_id="second")
    assert [(w.key, w.manifest_run_id) for w in batches_to_embed(ledger, most=1)] == [(batch, "second")]
    embed(ledger, batch, rows)
    assert balance(ledger).images["embedded"] == 1


def test_every_step_recorded_twice_is_as_if_recorded_once(ledger: Ledger):
    contents = {"/a": "1", "/b": "1", "/c": "2", "/bad": UNREADABLE}
    register(ledger, *contents)
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, contents)
    after_inspection = balance(ledger)
    assert inspect(ledger, batch, contents) == rows
    assert balance(ledger) == after_inspection
    for _ in range(2):
        embed(ledger, batch, rows)
    for _ in range(2):
        merge(ledger)
    found = balance(ledger)
    assert (found.files["indexed"], found.files["duplicate"], found.files["failed"]) == (2, 1, 1)
    assert found.holds


def test_inspecting_an_indexed_batch_again_keeps_its_images_indexed(ledger: Ledger):
    contents = {"/a": "1"}
    register(ledger, "/a")
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, contents)
    embed(ledger, batch, rows)
    merge(ledger)
    assert inspect(ledger, batch, contents) == rows
    assert balance(ledger).images["indexed"] == 1


def test_a_file_registered_anew_while_its_batch_is_inspected_is_left_alone(ledger: Ledger):
    register(ledger, "/a")
    (batch,) = plan(ledger)
    results = {f.file_id: found(f.path, {"/a": "old"}) for f in files_of_batch(ledger, batch)}
    register(ledger, "/a", version=2)
    _, rows = record_inspection(ledger, batch, results)
    assert rows == []
    assert balance(ledger).files["registered"] == 1


def test_a_deletion_during_a_merge_stays_outstanding(ledger: Ledger):
    register(ledger, "/a", "/b")
    (batch,) = plan(ledger)
    embed(ledger, batch, inspect(ledger, batch, {"/a": "1", "/b": "2"}))
    due, (live, _) = outstanding(ledger), live_vectors(ledger)
    delete(ledger, 1)
    record_release(ledger, ENCODER, number=1, live=live, merged=due.batches, run_id="run")
    assert outstanding(ledger).leaving == 1
    assert balance(ledger).holds


def test_an_image_revived_during_a_merge_stays_outstanding(ledger: Ledger):
    index_all(ledger, {"/a": "1"})
    delete(ledger, 1)
    live, _ = live_vectors(ledger)
    register(ledger, "/a")
    inspect(ledger, plan(ledger)[0], {"/a": "1"})
    record_release(ledger, ENCODER, number=2, live=live, merged={}, run_id="run")
    assert outstanding(ledger).embedded == 1
    assert balance(ledger).holds


def test_a_scan_registers_and_deletes_in_one_transaction(ledger: Ledger):
    index_all(ledger, {"/a": "1", "/b": "2"})
    job = register_scan(ledger, facts("/c"), gone=[1], submission=Submission("watch"))
    assert job is not None
    assert job.new_images_count == 1
    assert balance(ledger).files == balance(ledger).files | {"deleted": 1, "indexed": 1, "registered": 1}
    assert register_scan(ledger, [], gone=[], submission=Submission("watch")) is None


def _is_on_every_database(_object: object, name: str | None, *_: object) -> bool:
    """All but the unique index of `path`, which each database has of a kind of its own."""
    return name != "uq_files_path"


@pytest.mark.parametrize("kind", ["schema", "reopen"])
def test_the_migrations_build_the_declared_schema(ledger_url: str, kind: str):
    opened = open_ledger(ledger_url)
    if kind == "reopen":
        opened.close()
        opened = open_ledger(ledger_url)
    with opened.read() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": _is_on_every_database})
        assert compare_metadata(context, metadata) == []
    opened.close()
