"""When is a watched folder done? The folder on disk, the ledger and the release put together."""

import io
from dataclasses import replace

import pytest
from PIL import Image
from rich.console import Console

from clip_pipeline.cli.demo_progress import FolderState, follow, look, shown_on
from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.folder_progress import embedded_since, embedding_runs, failures_below, first_indexed_file
from clip_pipeline.ledger.jobs import give_up_batch
from clip_pipeline.ledger.planning import plan_batches
from clip_pipeline_tests.cli.indexing import embed_planned, index_folder, register_folder
from clip_pipeline_tests.ledger.steps import inspect


def test_a_folder_is_done_when_its_files_are_known_final_and_published(world, pictures):
    unseen = look(world.ledger, world.settings, pictures)
    assert (unseen.on_disk, unseen.unseen, unseen.is_done) == (3, 3, False)
    world.pin()
    register_folder(world, pictures)
    assert look(world.ledger, world.settings, pictures).stages == (3, 0, 0, 0)
    embed_planned(world)
    embedded = look(world.ledger, world.settings, pictures)
    assert (embedded.stages, embedded.is_done) == ((3, 3, 3, 1), False)
    world.publish()
    done = look(world.ledger, world.settings, pictures)
    assert (done.stages, done.total, done.is_done) == ((3, 3, 3, 3), 3, True)


def test_a_change_and_a_removal_on_disk_are_not_done_before_a_scan_saw_them(world, pictures):
    index_folder(world, pictures)
    Image.new("RGB", (9, 9), "green").save(pictures / "red.png")
    (pictures / "copy.png").unlink()
    state = look(world.ledger, world.settings, pictures)
    assert (state.on_disk, state.unseen, state.is_done) == (2, 2, False)


def test_an_empty_folder_is_done_and_has_nothing(world, tmp_path):
    (tmp_path / "empty").mkdir()
    state = look(world.ledger, world.settings, tmp_path / "empty")
    assert (state.total, state.unseen, state.is_done) == (0, 0, True)


def test_files_of_another_folder_do_not_count(world, pictures, tmp_path):
    index_folder(world, pictures)
    other = tmp_path / "pictures more"
    other.mkdir()
    Image.new("RGB", (9, 9), "green").save(other / "green.png")
    assert look(world.ledger, world.settings, pictures).is_done
    index_folder(world, other)
    assert look(world.ledger, world.settings, pictures).progress.registered == 3
    assert first_indexed_file(world.ledger, str(other)) == f"{other}/green.png"


def test_only_vectors_of_later_runs_were_made_in_this_run(world, pictures):
    index_folder(world, pictures, run_id="first")
    before = embedding_runs(world.ledger)
    assert embedded_since(world.ledger, before) == 0
    Image.new("RGB", (9, 9), "green").save(pictures / "green.png")
    index_folder(world, pictures, run_id="second")
    assert embedded_since(world.ledger, before) == 1
    assert embedded_since(world.ledger, {}) == 3


def test_failures_are_counted_by_reason_below_the_folder_only(world, pictures, tmp_path):
    (pictures / "bad.png").write_bytes(b"no picture")
    (pictures / "none.png").write_bytes(b"")
    index_folder(world, pictures)
    assert failures_below(world.ledger, str(pictures)) == {"empty": 1, "not-an-image": 1}
    assert failures_below(world.ledger, str(tmp_path / "other")) == {}


def test_following_ends_with_the_folder_and_shows_every_state(world, pictures):
    shown: list[FolderState] = []
    steps = iter([lambda: register_folder(world, pictures), lambda: embed_planned(world), world.publish])

    def wait(_seconds: float) -> None:
        next(steps)()

    world.pin()
    state = follow(world.ledger, world.settings, pictures, show=shown.append, wait=wait)
    assert state.is_done
    assert [s.stages[3] for s in shown] == [0, 0, 1, 3]


def test_following_ends_with_the_reason_when_the_work_is_given_up(world, pictures):
    def wait(_seconds: float) -> None:
        pytest.fail("it went on waiting")

    register_folder(world, pictures)
    (batch,) = plan_batches(world.ledger, batch_size=10, most=10)
    give_up_batch(world.ledger, batch.number, error="run 1: no space left")
    with pytest.raises(ClipPipelineError, match="3 files could not be worked on, and it was given up: run 1: no space"):
        follow(world.ledger, world.settings, pictures, show=lambda _state: None, wait=wait)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_bars_on_a_terminal_and_lines_elsewhere(world, pictures, is_terminal):
    output = io.StringIO()
    begun = look(world.ledger, world.settings, pictures)
    index_folder(world, pictures)
    done = look(world.ledger, world.settings, pictures)
    news = Console(file=output, force_terminal=is_terminal, width=100)
    with shown_on(news) as show:
        for state in (begun, begun, done):
            show(state)
    text = output.getvalue()
    assert ("3 files: registered 3, inspected 3, embedded 3, indexed 3" in text) != is_terminal
    assert ("registered" in text and "3/3" in text) or not is_terminal
    if not is_terminal:
        assert len(text.splitlines()) == 2


def test_what_a_run_has_behind_it_counts_as_embedded(world, pictures):
    register_folder(world, pictures)
    (batch,) = plan_batches(world.ledger, batch_size=10, most=10)
    inspect(world.ledger, batch, {f"{pictures}/{n}": n for n in ("red.png", "copy.png", "below/blue.png")})
    record_progress(world.ledger, batch, processed=2, run_id="run")
    state = look(world.ledger, world.settings, pictures)
    assert state.stages == (3, 3, 2, 0)
    assert not replace(state, unseen=1).is_stuck
