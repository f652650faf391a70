"""The page of numbers and pictures, and the lists of failed files behind it."""

import time

import pytest
from sqlalchemy import update

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.schema import images
from clip_pipeline.ledger.states import FileState
from clip_pipeline.serving.pages.stats_view import REASON_WORDS, STATE_WORDS
from clip_pipeline_tests.serving.pages.elements import get
from clip_pipeline_tests.serving.world import World, free_port, serving, shades


def tiles(page):
    """The numbers on top, by what they are of."""
    return {tile.one("dt").text: tile.one("dd", class_="tile-value").text for tile in page.all(class_="tile")}


def table_of(page, name):
    """The rows behind one chart."""
    figure = page.one("figure", aria_labelledby=f"chart-{name}-heading")
    return [[cell.text for cell in row.parts if not isinstance(cell, str)] for row in figure.one("tbody").all("tr")]


def when(client, path, is_so):
    """The page at a path once it is as wanted: some of it is made in the background."""
    deadline = time.monotonic() + 20
    while not is_so(page := get(client, path)):
        assert time.monotonic() < deadline, page.text
    return page


def test_before_the_first_image_the_page_says_that_there_is_nothing(client):
    page = get(client, "/ui/stats")
    assert tiles(page) == {
        "Searchable images": "0", "Files known": "0", "Duplicates": "0", "Failed": "0", "Index": "empty",
    }  # fmt: skip
    assert list(page.all("svg")) == []
    assert page.text.count("Nothing to show yet.") == len(list(page.all("figure")))
    assert "No file has failed." in page.text


def test_the_tiles_count_what_the_ledger_and_the_release_hold(world, client):
    contents = {"/a.jpg": "red", "/b.jpg": "red", "/c.jpg": "blue", "/bad.jpg": "bad"}
    world.pin()
    world.register(*contents)
    world.embed(contents, failing={"/bad.jpg": ReasonCode.CORRUPT})
    world.publish()
    page = when(client, "/ui/stats", lambda page: "Recall at 10" in tiles(page))
    assert tiles(page) | {"Index size": "", "Model": ""} == {
        "Searchable images": "2", "Files known": "4", "Duplicates": "1", "Failed": "1", "Index size": "",
        "Release": "1", "Recall at 10": "100.00 %", "Model": "",
    }  # fmt: skip
    assert tiles(page)["Model"] == world.spec.model_name
    assert table_of(page, "states") == [["searchable", "2"], ["duplicates", "1"], ["failed", "1"]]


def test_the_pictures_show_formats_sizes_and_times(world, client):
    world.index({f"/{n}.jpg": str(n) for n in range(3)})
    with world.ledger.write() as connection:
        connection.execute(update(images).where(images.c.image_id == 1).values(format="JPEG", width=2000, height=1500))
        connection.execute(update(images).values(indexed_at="2026-02-01T10:30:00.000Z"))
    page = get(client, "/ui/stats")
    assert table_of(page, "formats") == [["PNG", "2"], ["JPEG", "1"]]
    assert [row for row in table_of(page, "pixels") if row[1] != "0"] == [["0 to 0.1", "2"], ["2 to 4", "1"]]
    assert table_of(page, "indexed")[-1] == ["01 Feb 2026, 10:00 UTC", "3"]


def test_the_scores_of_the_served_release_are_drawn_once_they_are_sampled(world, client):
    world.index(shades(30))
    page = when(client, "/ui/stats", lambda page: "of release 0000001" in page.text)
    counted = [[int(cell) for cell in row[1:]] for row in table_of(page, "scores")]
    assert [sum(column) for column in zip(*counted, strict=True)] == [30, 30]


def test_each_reason_leads_to_its_files_a_page_at_a_time(world, client):
    contents = {f"/{n:03d}.jpg": str(n) for n in range(105)} | {"/x.jpg": "x"}
    world.pin()
    world.register(*contents, "/missing.jpg")
    failing = dict.fromkeys(contents, ReasonCode.TRUNCATED) | {"/x.jpg": ReasonCode.CORRUPT}
    world.embed(contents, failing=failing)
    page = get(client, "/ui/stats")
    section = page.one(id="failures-heading").parent
    links = {link.text: link["href"] for link in section.all("a")}
    assert list(links) == ["truncated", "corrupt", "missing"]
    first = get(client, links["truncated"])
    second = get(client, first.one("a", rel="next")["href"])
    found = [row.one("td", class_="mono").text for p in (first, second) for row in p.one("tbody").all("tr")]
    assert found == sorted(contents)[:-1]
    assert [row.text for row in get(client, links["missing"]).one("tbody").all("tr")] == ["/missing.jpg /missing.jpg"]


@pytest.mark.parametrize("path", ["/ui/failures/nonsense", "/ui/failures/%00"])
def test_a_reason_that_does_not_exist_is_a_page_that_says_so(client, path):
    assert "reason" in get(client, path, status=404).text


def test_the_page_names_every_part_of_the_service_and_what_is_wrong_with_it(tmp_path):
    world = World(tmp_path / "home", dagster_port=free_port())
    with serving(world) as client:
        page = get(client, "/ui/stats")
    world.close()
    parts = {part.one(class_="health-name").text: part for part in page.all("li", class_="health-part")}
    assert list(parts) == ["database ok", "index ok", "encoder ok", "orchestrator failing"]
    assert "clip-pipeline up" in parts["orchestrator failing"].one(class_="health-fault").text


def test_every_reason_and_every_state_has_words():
    assert set(REASON_WORDS) == set(ReasonCode)
    assert set(STATE_WORDS) == set(FileState) - {FileState.DELETED}
