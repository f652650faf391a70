"""One part of a scrape that fails, hangs or is slow, and the others beside it."""

import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clip_pipeline.observability.metrics import INDEX_IMAGES, PUSH_LISTENERS, Measures, Reading
from clip_pipeline.serving import scrape as module
from clip_pipeline.serving.scrape import Scrape

PATIENCE_S = 20


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    monkeypatch.setattr(module, "FIRST_PATIENCE_S", 0.05)


@pytest.fixture
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    monkeypatch.setattr(module, "PAUSE_PER_READING", 0)


def values_of(scrape):
    """The value of each series of one answer."""
    text, _ = scrape.answer("")
    families = text_string_to_metric_families(text.decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def until(scrape, holds):
    """The first answer that `holds` is true of."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds(values := values_of(scrape)):
        assert time.monotonic() < deadline, values
    return values


def fail():
    raise RuntimeError("torn")


def listeners():
    return [Reading(PUSH_LISTENERS, 3)]


@pytest.mark.usefixtures("nothing_is_kept")
def test_a_part_that_fails_is_left_out_and_counted():
    scrape = Scrape(Measures(), {"index": fail, "push": listeners})
    values = until(scrape, lambda values: values["clip_scrape_errors_total", "index"] >= 2)
    assert values["clip_push_listeners",] == 3
    assert ("clip_scrape_age_seconds", "index") not in values
    assert values["clip_scrape_errors_total", "push"] == 0


@pytest.mark.usefixtures("nothing_is_kept")
def test_a_part_that_fails_is_logged_once_and_again_after_it_was_well(caplog):
    outcomes = [fail, fail, lambda: [Reading(INDEX_IMAGES, 1)], fail]
    scrape = Scrape(Measures(), {"index": lambda: outcomes.pop(0)() if outcomes else [Reading(INDEX_IMAGES, 2)]})
    until(scrape, lambda values: values.get(("clip_index_images",)) == 2)
    assert [(record.part, record.reason) for record in caplog.records] == [("index", "torn")] * 2


def test_a_part_that_hangs_delays_no_answer_for_long_and_appears_when_it_is_through():
    go_on = threading.Event()

    def hang():
        assert go_on.wait(PATIENCE_S)
        return [Reading(INDEX_IMAGES, 1)]

    scrape = Scrape(Measures(), {"index": hang, "push": listeners})
    values = until(scrape, lambda values: ("clip_push_listeners",) in values)
    assert ("clip_index_images",) not in values
    assert values["clip_scrape_errors_total", "index"] >= 1
    go_on.set()
    until(scrape, lambda values: values.get(("clip_index_images",)) == 1)
    scrape.close()


@pytest.mark.usefixtures("nothing_is_kept")
def test_numbers_of_a_moment_ago_are_shown_while_new_ones_are_read_until_they_are_stale(monkeypatch):
    go_on, begun = threading.Event(), threading.Event()
    reads = iter([lambda: None, lambda: (begun.set(), go_on.wait(PATIENCE_S))])

    def read():
        next(reads, lambda: None)()
        return [Reading(INDEX_IMAGES, 1)]

    scrape = Scrape(Measures(), {"index": read})
    until(scrape, lambda values: ("clip_index_images",) in values)
    while not begun.is_set():
        values_of(scrape)
    kept = values_of(scrape)
    assert (kept["clip_index_images",], kept["clip_scrape_errors_total", "index"]) == (1, 0)
    monkeypatch.setattr(module, "STALE_S", 0.0)
    stale = values_of(scrape)
    assert ("clip_index_images",) not in stale
    assert stale["clip_scrape_errors_total", "index"] == 1
    go_on.set()
    scrape.close()


def test_a_part_is_not_read_again_within_what_it_is_kept_for(monkeypatch):
    monkeypatch.setattr(module, "KEPT_S", 1000.0)
    reads = []
    scrape = Scrape(Measures(), {"push": lambda: reads.append(1) or listeners()})
    until(scrape, lambda values: ("clip_push_listeners",) in values)
    ages = [values_of(scrape)["clip_scrape_age_seconds", "push"] for _ in range(5)]
    assert reads == [1]
    assert ages == sorted(ages)


def test_what_takes_long_to_read_is_read_the_less_often(monkeypatch):
    monkeypatch.setattr(module, "KEPT_S", 0.0)
    monkeypatch.setattr(module, "PAUSE_PER_READING", 1_000_000)
    reads = []
    scrape = Scrape(Measures(), {"push": lambda: reads.append(1) or listeners()})
    until(scrape, lambda values: ("clip_push_listeners",) in values)
    for _ in range(5):
        values_of(scrape)
    assert reads == [1]


def test_many_scrapes_at_once_read_each_part_once(monkeypatch):
    monkeypatch.setattr(module, "KEPT_S", 1000.0)
    reads, together = [], threading.Barrier(8)
    scrape = Scrape(Measures(), {"push": lambda: reads.append(1) or listeners()})

    def ask():
        together.wait(PATIENCE_S)
        scrape.answer("")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == [1]
