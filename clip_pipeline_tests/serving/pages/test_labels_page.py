"""The pages about labels: sets created and put in use, the whole index by its labels, and searches from there."""

import pytest

from clip_pipeline.ledger.api_keys import Scope
from clip_pipeline.ledger.label_sets import create_label_set, current_label_set, list_label_sets, use_label_set
from clip_pipeline.serving.pages.labels_page import label_chart
from clip_pipeline_tests.serving.lane import label_images
from clip_pipeline_tests.serving.pages.elements import get, read, send
from clip_pipeline_tests.serving.pages.people import browser_at, log_in, make_key, origin, token_of_page
from clip_pipeline_tests.serving.pages.reading import Page

LABELS = ["something red", "something blue", "something green"]
CONTENTS = {"/a.jpg": "a red thing", "/b.jpg": "a red shade", "/c.jpg": "a blue thing"}


def use_colours(world):
    create_label_set(world.ledger, "colours", labels=LABELS, templates=["{}"])
    use_label_set(world.ledger, "colours")


def test_a_label_set_is_created_shown_and_put_in_use(world, client):
    page = get(client, "/ui/labels")
    assert "In use: everyday, version 1" in page.one(class_="lead").text
    fields = {"name": "colours", "labels": "red\n\n  blue \nred", "templates": "a {} thing\n{}"}
    created = send(client, page, "/ui/labels", **fields)
    assert (created.status_code, created.headers["location"]) == (303, "/ui/labels/colours?version=1")
    shown = get(client, created.headers["location"])
    assert [item.text for part in shown.all("ul") for item in part.all("li")] == ["a {} thing", "{}", "red", "blue"]
    assert current_label_set(world.ledger).name == "everyday"
    assert send(client, shown, "/ui/labels/use").headers["location"] == "/ui/labels"
    assert current_label_set(world.ledger).name == "colours"
    rows = [row.text for row in get(client, "/ui/labels").one("tbody").all("tr")]
    assert [row.endswith("in use") for row in rows] == [True, False]


def test_a_name_that_exists_gets_its_next_version_and_both_stay(client):
    for labels in ("red", "red\nblue"):
        send(client, get(client, "/ui/labels"), "/ui/labels", name="colours", labels=labels)
    assert "1 label" in get(client, "/ui/labels/colours?version=1").text
    assert "2 labels" in get(client, "/ui/labels/colours").text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "no blanks"}, "Expected a name"),
        ({"labels": " \n "}, "got none"),
        ({"labels": "a" * 201}, "1 to 200 characters"),
        ({"templates": "no slot"}, "exactly one {}"),
        ({"labels": "</textarea><script>alert(1)</script>", "templates": "<b>"}, "exactly one {}"),
    ],
)
def test_what_cannot_be_created_is_said_and_stays_in_the_form(world, client, fields, said):
    given = {"name": "mine", "labels": "cat", "templates": "{}"} | fields
    answer = send(client, get(client, "/ui/labels"), "/ui/labels", **given)
    assert answer.status_code == 422
    page = read(answer)
    assert said in page.one(role="alert").text
    form = page.one("form", action="/ui/labels")
    assert "<script>alert" not in answer.text
    assert {name: text for name, text in form.fields().items() if name in fields} == fields
    assert "mine" not in [stored.label_set.name for stored in list_label_sets(world.ledger)]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"name": "everyday", "version": "9"}, 404),
        ({"name": "none", "version": "1"}, 404),
        ({"name": "everyday", "version": "-1"}, 422),
        ({"name": "every\0day", "version": "1"}, 422),
        ({}, 422),
    ],
)
def test_what_is_not_there_is_not_put_in_use(client, fields, status):
    assert client.post("/ui/labels/use", data=fields, headers=origin(client)).status_code == status


@pytest.mark.parametrize("path", ["/ui/labels/none", "/ui/labels/%00", "/ui/labels/everyday?version=7"])
def test_an_unknown_label_set_is_a_page_that_says_so(client, path):
    get(client, path, status=404)


def test_before_the_index_is_labelled_the_page_says_when_it_will_be(world, client):
    world.index(CONTENTS)
    use_colours(world)
    page = get(client, "/ui/labels")
    assert "No image has labels of this set yet." in page.text
    assert not list(page.all("svg"))


def test_the_chart_leads_from_each_label_to_the_images_that_have_it(world, client):
    world.index(CONTENTS)
    use_colours(world)
    label_images(world)
    page = get(client, "/ui/labels")
    assert [row.text for row in page.one("figure").one("tbody").all("tr")] == ["something red 2", "something blue 1"]
    links = {link.text: link["href"] for link in page.one("svg").all("a")}
    found = Page(client.get(links["something red"]).text)
    assert sorted(found.hits) == [1, 2, 3]  # five labels are kept of each image, and there are three
    sure = Page(client.get(links["something red"] + "&label_min_confidence=0.5").text)
    assert sorted(sure.hits) == [1, 2]
    assert found.root.one("input", id="field-label")["value"] == "something red"


def test_a_label_that_the_set_does_not_have_is_told_on_the_search_page(world, client):
    world.index(CONTENTS)
    use_colours(world)
    label_images(world)
    answer = client.get("/ui/search", params={"q": "red", "label": "<zebra>"})
    assert answer.status_code == 422
    assert "<zebra>" not in answer.text
    assert "label" in Page(answer.text).root.one(role="alert").text


def test_the_page_of_an_image_shows_its_best_labels(world, client):
    world.index(CONTENTS)
    assert not list(get(client, "/ui/images/1").all("ol", class_="ranked"))
    use_colours(world)
    label_images(world)
    ranked = get(client, "/ui/images/1").one("ol", class_="ranked")
    first = next(ranked.all("li"))
    assert first.one("a")["href"] == "/ui/search?q=something+red&label=something+red"
    assert float(first.one("progress")["value"]) > 0.3


def test_a_long_label_is_cut_in_the_chart_and_whole_in_its_table_and_link():
    label = "<b>" + "x" * 60
    chart = label_chart({label: 3}, release="0000001")
    assert chart.labels[0].name == "<b>" + "x" * 14 + "…"
    assert chart.rows == ((label, "3"),)
    assert chart.labels[0].url.endswith("label=%3Cb%3E" + "x" * 60)


def test_a_key_that_may_only_read_changes_no_labels(world, client):
    key = make_key(world, scope=Scope.READ)
    with browser_at(client) as person:
        log_in(person, key.token)
        fields = {"csrf_token": token_of_page(person), "name": "everyday", "version": "1", "labels": "cat",
                  "templates": "{}"}  # fmt: skip
        for path in ("/ui/labels", "/ui/labels/use"):
            assert person.post(path, data=fields, headers=origin(person)).status_code == 403
