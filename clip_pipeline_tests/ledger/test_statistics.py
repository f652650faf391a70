"""What the ledger counts of itself for the pictures of the stats page."""

import pytest
from sqlalchemy import update

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.schema import images
from clip_pipeline.ledger.statistics import PIXEL_BOUNDS, ledger_statistics
from clip_pipeline_tests.ledger.steps import UNREADABLE, embed, index_all, inspect, merge, plan, register


def change(ledger: Ledger, image_id: int, **values):
    with ledger.write() as connection:
        connection.execute(update(images).where(images.c.image_id == image_id).values(**values))


def test_an_empty_ledger_counts_nothing(ledger: Ledger):
    counted = ledger_statistics(ledger)
    assert (counted.searchable, counted.image_bytes, counted.files_known) == (0, 0, 0)
    assert (counted.images_by_format, counted.indexed_by_hour, counted.failures) == ({}, {}, {})
    assert [b.images for b in counted.pixels] == [0] * len(PIXEL_BOUNDS)


def test_every_file_is_counted_in_its_state_and_every_failure_by_its_code(ledger: Ledger):
    contents = {"/a": "1", "/b": "1", "/c": UNREADABLE, "/d": "4"}
    register(ledger, *contents, "/missing")
    (batch,) = plan(ledger)
    embed(ledger, batch, inspect(ledger, batch, contents), failing={"/d": ReasonCode.OUT_OF_MEMORY})
    merge(ledger)
    register(ledger, "/later")
    counted = ledger_statistics(ledger)
    assert counted.files_by_state == balance(ledger).files
    assert {state: n for state, n in counted.files_by_state.items() if n} == {
        "registered": 1, "indexed": 1, "duplicate": 1, "failed": 3,
    }  # fmt: skip
    assert counted.failures == {"missing": 1, "out-of-memory": 1, "truncated": 1}
    assert (counted.files_known, counted.searchable, counted.image_bytes) == (6, 1, 101)


def test_images_are_counted_by_format_and_hour_most_frequent_format_first(ledger: Ledger):
    index_all(ledger, {f"/{n}": str(n) for n in range(5)})
    stored = [
        ("JPEG", "2026-02-01T10:59:59.999Z"), ("WEBP", "2026-02-01T11:00:00.000Z"), ("PNG", "2026-01-31T23:00:00.000Z"),
        ("PNG", "2026-02-01T10:00:00.000Z"), ("PNG", "2026-02-01T10:30:00.000Z"),
    ]  # fmt: skip
    for image_id, (name, moment) in enumerate(stored, start=1):
        change(ledger, image_id, format=name, indexed_at=moment)
    counted = ledger_statistics(ledger)
    assert list(counted.images_by_format.items()) == [("PNG", 3), ("JPEG", 1), ("WEBP", 1)]
    assert list(counted.indexed_by_hour.items()) == [
        ("2026-01-31T23", 1), ("2026-02-01T10", 3), ("2026-02-01T11", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("width", "height", "number"), [(333, 300, 0), (400, 250, 1), (2000, 1000, 5), (1999, 1000, 4), (60000, 60000, 9)]
)
def test_an_image_falls_in_the_bin_of_its_pixels(ledger: Ledger, width, height, number):
    """60,000 x 60,000 is more than 32 bits hold."""
    index_all(ledger, {"/a": "1"})
    change(ledger, 1, width=width, height=height)
    assert [b.images for b in ledger_statistics(ledger).pixels] == [
        int(n == number) for n in range(len(PIXEL_BOUNDS))
    ]  # fmt: skip


def test_the_bins_adjoin_and_the_last_is_open(ledger: Ledger):
    bins = ledger_statistics(ledger).pixels
    assert [b.below for b in bins] == [*(b.least for b in bins[1:]), None]


def test_images_that_are_not_shown_yet_are_in_no_picture(ledger: Ledger):
    register(ledger, "/a")
    (batch,) = plan(ledger)
    embed(ledger, batch, inspect(ledger, batch, {"/a": "1"}))
    counted = ledger_statistics(ledger)
    assert (counted.searchable, counted.images_by_format, counted.indexed_by_hour) == (0, {}, {})
