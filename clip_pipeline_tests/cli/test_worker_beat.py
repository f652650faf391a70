"""How fast a worker is, from counts; and what its heart does when the ledger or the address is not its own any more."""

from dataclasses import replace

import pytest

from clip_pipeline.cli.stack.ports import free_port
from clip_pipeline.cli.worker_beat import PACE_S, Heart, Pace
from clip_pipeline.cli.worker_checks import Findings
from clip_pipeline.cli.worker_plan import Seat
from clip_pipeline.core.errors import ConflictError
from clip_pipeline.ledger.workers import WorkerState, list_workers, register_worker
from clip_pipeline_tests.cli.stack.children import wait_until

RUN = ("run-1",)
FOUND = Findings(gpu="cpu", encoder="builtin", fingerprint="f" * 64)


def rates(looks):
    pace = Pace()
    return [round(pace.note(runs, images, now=now), 3) for now, runs, images in looks]


def test_the_rate_is_that_of_the_last_seconds():
    looks = [(5.0 * n, RUN, 50 * n if n < 8 else 350 + 500 * (n - 7)) for n in range(16)]
    found = rates(looks)
    assert found[:8] == [0.0] + [10.0] * 7
    assert found[-1] == 100.0
    assert found == sorted(found)


def test_other_work_or_work_begun_anew_starts_from_nothing():
    assert rates([(0, RUN, 0), (5, RUN, 50), (10, ("run-2",), 1000), (15, ("run-2",), 1010)]) == [0, 10, 0, 2]
    assert rates([(0, RUN, 100), (5, RUN, 0), (10, RUN, 5)]) == [0, 0, 1]
    assert rates([(0, (), 0), (5, (), 0)]) == [0, 0]


def test_a_pace_keeps_no_more_than_it_needs():
    pace = Pace()
    for n in range(1000):
        pace.note(RUN, n, now=float(n))
    assert len(pace.looks) <= PACE_S + 2


@pytest.fixture
def seat():
    return Seat("127.0.0.1", free_port(), "127.0.0.1", "here", "cpu", "")


@pytest.fixture
def heart(world, seat):
    beating = Heart(world.ledger, [(seat, FOUND)])
    yield beating
    beating.stop()


def only(ledger):
    (known,) = list_workers(ledger)
    return known


def test_a_worker_whose_server_is_silent_says_so_and_leaves_with_a_word(world, heart):
    heart.start()
    wait_until(lambda: only(world.ledger).report.detail)
    assert only(world.ledger).state is WorkerState.STARTING
    assert "does not answer" in only(world.ledger).report.detail
    heart.drain()
    wait_until(lambda: only(world.ledger).state is WorkerState.DRAINING)
    heart.stop()
    assert only(world.ledger).state is WorkerState.LEFT


def test_a_heart_that_never_beat_leaves_with_a_word_too(world, heart):
    heart.stop()
    assert only(world.ledger).state is WorkerState.LEFT


def test_a_worker_that_was_struck_off_enters_itself_again(world, seat, heart, monkeypatch):
    monkeypatch.setattr("clip_pipeline.cli.worker_beat.BEAT_S", 0.1)
    heart.start()
    with world.ledger.write() as connection:
        connection.exec_driver_sql("DELETE FROM workers")
    wait_until(lambda: list_workers(world.ledger))
    assert only(world.ledger).card.address == seat.address
    heart.check()


def test_a_worker_whose_address_another_machine_took_gives_up(world, heart, monkeypatch):
    monkeypatch.setattr("clip_pipeline.cli.worker_beat.BEAT_S", 0.1)
    theirs = replace(only(world.ledger).card, machine="elsewhere")
    with world.ledger.write() as connection:
        connection.exec_driver_sql("DELETE FROM workers")
    register_worker(world.ledger, theirs)
    heart.start()

    def gave_up():
        try:
            heart.check()
        except ConflictError:
            return True
        return False

    wait_until(gave_up)
    heart.stop()
    assert only(world.ledger).card.machine == "elsewhere"
    assert only(world.ledger).is_alive


def test_a_ledger_that_cannot_be_written_is_said_once_and_survived(world, heart, monkeypatch, caplog):
    monkeypatch.setattr("clip_pipeline.cli.worker_beat.BEAT_S", 0.05)
    with world.ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE workers RENAME TO away")
    heart.start()
    wait_until(lambda: "beat not written" in caplog.text)
    with world.ledger.write() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO workers")
    wait_until(lambda: only(world.ledger).report.detail)
    assert caplog.text.count("beat not written") == 1
