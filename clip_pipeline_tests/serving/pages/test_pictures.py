"""Slow work behind a page: shown as it was while it is made anew."""

import threading
import time

from clip_pipeline.serving.pages import pictures
from clip_pipeline.serving.pages.pictures import Kept


class Work:
    """Counts how often it is done; while `gate` is closed it does not come to its end."""

    def __init__(self):
        self.done, self.gate = 0, threading.Event()
        self.fault: Exception | None = None
        self.gate.set()

    def __call__(self):
        assert self.gate.wait(30)
        if self.fault is not None:
            raise self.fault
        self.done += 1
        return self.done


def until(is_so):
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline


def test_what_is_fresh_is_not_made_again():
    work = Work()
    kept = Kept(work, fresh_s=60, name="test")
    assert [kept.latest(within_s=10) for _ in range(3)] == [1, 1, 1]
    assert work.done == 1


def test_the_old_value_is_shown_while_a_new_one_is_made():
    work = Work()
    kept = Kept(work, fresh_s=0, name="test")
    assert kept.latest(within_s=10) == 1
    work.gate.clear()
    assert kept.latest(within_s=10) == 1
    work.gate.set()
    until(lambda: (kept.latest(within_s=10) or 0) >= 2)


def test_nobody_waits_longer_than_asked_for_the_first_value():
    work = Work()
    work.gate.clear()
    kept = Kept(work, fresh_s=60, name="test")
    assert kept.latest(within_s=0.01) is None
    work.gate.set()
    assert kept.latest(within_s=10) == 1


def test_a_value_from_long_ago_is_waited_for(monkeypatch):
    monkeypatch.setattr(pictures, "STALE_S", 0)
    work = Work()
    kept = Kept(work, fresh_s=0, name="test")
    assert [kept.latest(within_s=10) for _ in range(3)] == [1, 2, 3]


def test_many_who_ask_at_once_share_one_piece_of_work():
    work = Work()
    work.gate.clear()
    kept = Kept(work, fresh_s=60, name="test")
    found = []
    threads = [threading.Thread(target=lambda: found.append(kept.latest(within_s=10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    work.gate.set()
    for thread in threads:
        thread.join()
    assert (found, work.done) == ([1] * 8, 1)


def test_work_that_fails_is_tried_again_and_leaves_the_old_value(caplog):
    work = Work()
    kept = Kept(work, fresh_s=0, name="test")
    assert kept.latest(within_s=10) == 1
    work.fault = RuntimeError("the disk is gone")
    kept.latest(within_s=10)
    until(lambda: "the disk is gone" in caplog.text)
    assert kept.latest(within_s=10) == 1
    work.fault = None
    until(lambda: (kept.latest(within_s=10) or 0) >= 2)
