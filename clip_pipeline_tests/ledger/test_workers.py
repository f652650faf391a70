"""Workers in the ledger: they come, beat, fall silent, leave, and nobody takes the address of one that is alive."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update

from clip_pipeline.core.errors import ConflictError, NotFoundError
from clip_pipeline.ledger.clock import clock_difference_s, seconds_between
from clip_pipeline.ledger.database import Ledger, iso_utc
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.schema import workers
from clip_pipeline.ledger.workers import (
    SILENT_S,
    KnownWorker,
    WorkerCard,
    WorkerReport,
    WorkerState,
    beat,
    count_workers,
    forget_worker,
    leave_word,
    list_workers,
    processed_images,
    register_worker,
)
from clip_pipeline_tests.ledger.steps import plan, register

CARD = WorkerCard(
    "gpu01", 4000, "first", "cuda:0, NVIDIA H200", "gpu01.local", 77, "builtin", "f" * 64, "0.1.0", "1.13.27"
)


def moved(ledger: Ledger, address: str, seconds: float) -> None:
    """The last word of a worker, as if the database's clock had gone on by so much since."""
    (known,) = (worker for worker in list_workers(ledger) if worker.card.address == address)
    then = iso_utc(datetime.fromisoformat(known.seen_at) - timedelta(seconds=seconds))
    with ledger.write() as connection:
        connection.execute(update(workers).where(workers.c.address == address).values(seen_at=then))


def only(ledger: Ledger) -> KnownWorker:
    (known,) = list_workers(ledger)
    return known


def test_a_worker_is_known_as_it_described_itself_and_as_it_last_reported(ledger: Ledger):
    session = register_worker(ledger, CARD)
    assert (only(ledger).card, only(ledger).state, only(ledger).is_alive) == (CARD, WorkerState.STARTING, True)
    report = WorkerReport(WorkerState.BUSY, ("run-1", "run-2"), 12.5, "well")
    assert beat(ledger, CARD.address, session=session, report=report)
    assert (only(ledger).report, only(ledger).state) == (report, WorkerState.BUSY)
    assert 0 <= only(ledger).silent_s < 5
    assert only(ledger).started_at <= only(ledger).seen_at


@pytest.mark.parametrize(
    ("seconds", "is_alive"),
    [(SILENT_S - 4, True), (SILENT_S + 1, False), (-SILENT_S - 4, False), (-3600, False), (3600, False)],
)
def test_a_worker_that_is_silent_is_lost_and_so_is_one_from_the_future(ledger: Ledger, seconds: float, is_alive: bool):
    """The clock of the database may jump back: a worker that died before must not seem alive until it caught up."""
    session = register_worker(ledger, CARD)
    moved(ledger, CARD.address, seconds)
    assert only(ledger).is_alive is is_alive
    assert (only(ledger).state is WorkerState.LOST) is not is_alive
    beat(ledger, CARD.address, session=session, report=WorkerReport(WorkerState.READY))
    assert only(ledger).state is WorkerState.READY


def test_a_worker_that_left_stays_left(ledger: Ledger):
    session = register_worker(ledger, CARD)
    assert leave_word(ledger, CARD.address, session=session)
    moved(ledger, CARD.address, 9999)
    assert (only(ledger).state, only(ledger).is_alive) == (WorkerState.LEFT, False)


def test_a_worker_that_comes_again_gets_a_new_session_and_the_old_one_is_over(ledger: Ledger):
    old = register_worker(ledger, CARD)
    new = register_worker(ledger, replace(CARD, pid=78))
    assert only(ledger).card.pid == 78
    assert not beat(ledger, CARD.address, session=old, report=WorkerReport(WorkerState.BUSY))
    assert only(ledger).state is WorkerState.STARTING
    assert beat(ledger, CARD.address, session=new, report=WorkerReport(WorkerState.READY))


def test_the_address_of_a_living_worker_is_not_given_to_another_machine(ledger: Ledger):
    register_worker(ledger, CARD)
    other = replace(CARD, machine="gpu02.local")
    with pytest.raises(ConflictError, match=r"gpu01\.local \(process 77\).*--host"):
        register_worker(ledger, other)
    assert only(ledger).card == CARD
    moved(ledger, CARD.address, SILENT_S + 1)
    register_worker(ledger, other)
    assert only(ledger).card == other


def test_a_lost_worker_is_struck_off_and_a_living_one_is_not(ledger: Ledger):
    register_worker(ledger, CARD)
    with pytest.raises(ConflictError, match="stop it first"):
        forget_worker(ledger, CARD.address)
    moved(ledger, CARD.address, SILENT_S + 1)
    forget_worker(ledger, CARD.address)
    assert list_workers(ledger) == []
    with pytest.raises(NotFoundError, match="clip-pipeline workers"):
        forget_worker(ledger, CARD.address)


def test_counts_name_every_state(ledger: Ledger):
    assert count_workers(ledger) == dict.fromkeys(map(str, WorkerState), 0)
    for port in (4000, 4001, 4002):
        register_worker(ledger, replace(CARD, port=port))
    moved(ledger, "gpu01:4001", SILENT_S + 1)
    counts = count_workers(ledger)
    assert (counts["starting"], counts["lost"], sum(counts.values())) == (2, 1, 3)


def test_the_images_of_runs_are_those_of_the_batches_they_worked_on_last(ledger: Ledger):
    register(ledger, "/a", "/b")
    (batch,) = plan(ledger)
    assert processed_images(ledger, []) == 0
    assert processed_images(ledger, ["run-1"]) == 0
    record_progress(ledger, batch, processed=7, run_id="run-1")
    assert processed_images(ledger, ["run-1", "run-2"]) == 7
    assert processed_images(ledger, ["run-2"]) == 0


def test_the_clock_of_the_database_is_read_as_the_ledger_writes_times(ledger: Ledger):
    """On PostgreSQL beside us, and in SQLite, it is this machine's own."""
    assert abs(clock_difference_s(ledger)) < 1
    register_worker(ledger, CARD)
    seen_at = only(ledger).seen_at
    assert len(seen_at) == len("2026-01-31T23:59:01.123Z")
    assert abs(seconds_between(seen_at, iso_utc(datetime.now().astimezone()))) < 5
    assert seconds_between("2026-01-31T23:59:01.123Z", "2026-01-31T23:59:00.123Z") == -1.0
