"""The pages about single images: sent by a form, shown with their labels, listed, deleted."""

import io
from html import escape

import pytest
from PIL import Image

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.analysis_lookup import recent_analyses
from clip_pipeline.ledger.api_keys import Scope
from clip_pipeline.ledger.label_sets import create_label_set
from clip_pipeline.serving.pages.analyze_page import HISTORY_SHOWN
from clip_pipeline.serving.pages.stats_view import REASON_WORDS
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.serving.lane import answer_all
from clip_pipeline_tests.serving.pages.elements import get, read, send
from clip_pipeline_tests.serving.pages.people import browser_at, log_in, make_key, origin, token_of_page

HOSTILE = '<img src=x onerror="alert(1)">.png'


@pytest.fixture
def world(world):
    world.pin()
    return world


def post(client, content=None, *, name="cat.png", **fields):
    """Send the form of the page; returns the answer."""
    files = {"file": (name, picture("red", side=60) if content is None else content)}
    return client.post("/ui/analyze", data=fields, files=files, headers=origin(client))


def sent(client, content=None, **options):
    """Send an image in; returns the address of its page."""
    answer = post(client, content, **options)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def bars(page):
    """The ranked labels as shown: (label, confidence in words, length of the bar)."""
    return [
        (row.one(class_="ranked-label").text, row.one(class_="ranked-share").text, float(row.one("progress")["value"]))
        for ranked in page.all("ol", class_="ranked")
        for row in ranked.all("li")
    ]


def test_an_image_goes_from_the_form_to_its_labels(world, client):
    form = get(client, "/ui/analyze").one("form", action="/ui/analyze")
    assert (form["method"], form["enctype"]) == ("post", "multipart/form-data")
    address = sent(client, labels="something red, something blue\nsomething green", name="rot.png", top_k="2")
    waiting = get(client, address)
    assert "waits for its turn" in waiting.text
    assert waiting.one("article")["data-follow"] == address.replace("/ui/analyze", "/ws/analysis")
    answer_all(world)
    page = get(client, address)
    assert page.one("h1").text == "rot.png"
    assert "data-follow" not in page.one("article").attributes
    shown = bars(page)
    assert shown[0][0] == "something red"
    assert len(shown) == 2
    assert all(said == f"{100 * length:.1f} %" for _, said, length in shown)
    facts = page.one("dl").text
    assert "60 \u00d7 60 pixels" in facts
    assert "3 given with it" in facts
    assert world.spec.model_name in facts
    (request,) = recent_analyses(world.ledger)
    assert request.source == "page"


def test_without_labels_the_chosen_set_counts_or_the_one_in_use(world, client):
    create_label_set(world.ledger, "colours", labels=list(COLOUR_LABELS), templates=["{}"])
    chosen = get(client, sent(client, label_set="colours", top_k=""))
    default = get(client, sent(client, label_set="", labels=" , "))
    assert chosen.one("a", href="/ui/labels/colours?version=1").text == "colours, version 1"
    assert default.one("a", href="/ui/labels/everyday?version=1").text == "everyday, version 1"
    answer_all(world)
    assert len(bars(get(client, f"/ui/analyze/{recent_analyses(world.ledger)[1].request_id}"))) == len(COLOUR_LABELS)


def test_many_labels_are_shown_as_far_as_a_page_has_room(world, client):
    address = sent(client, labels=",".join(f"word {n}" for n in range(300)), top_k="")
    answer_all(world)
    page = get(client, address)
    assert len(bars(page)) == 200
    assert page.one("summary").text == "190 more of 290"
    lengths = [length for _, _, length in bars(page)]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize(
    ("content", "fields", "status", "said"),
    [
        (b"no image", {}, 415, "not-an-image"),
        (b"", {}, 422, "empty"),
        (None, {"top_k": "0"}, 422, "top_k of at least 1"),
        (None, {"top_k": "many"}, 422, "whole number"),
        (None, {"labels": "a" * 201}, 422, "1 to 200 characters"),
        (None, {"labels": "cat", "label_set": "everyday"}, 422, "leave one of them out"),
        (None, {"label_set": "none"}, 422, "none"),
    ],
)
def test_what_is_wrong_is_said_above_the_form_which_keeps_what_was_typed(world, client, content, fields, status, said):
    answer = post(client, content, **fields)
    assert answer.status_code == status
    page = read(answer)
    assert said in page.one(role="alert").text
    assert page.one("textarea", name="labels").text == fields.get("labels", "")
    assert page.one("input", name="top_k")["value"] == fields.get("top_k", "10")
    assert recent_analyses(world.ledger) == []


def test_a_form_without_a_file_asks_for_one(client):
    empty = client.post("/ui/analyze", files={"file": ("", b"")}, headers=origin(client))
    absent = client.post("/ui/analyze", data={"labels": "cat"}, headers=origin(client))
    for answer in (empty, absent):
        assert answer.status_code == 422
        assert "Choose an image first." in read(answer).one(role="alert").text


def test_an_image_that_cannot_be_analyzed_says_why_in_plain_words(world, client):
    address = sent(client, picture("green", side=300)[:120], name="half.png")
    answer_all(world)
    page = get(client, address)
    alert = page.one(role="alert").text
    assert "This image could not be analyzed." in alert
    assert REASON_WORDS[ReasonCode.TRUNCATED] in alert
    assert str(recent_analyses(world.ledger)[0].reason) in alert
    assert bars(page) == []
    # It cannot be shown either: a drawing stands in its place.
    picture_of_it = client.get(page.one("img", class_="analysis-picture")["src"], follow_redirects=True)
    assert (picture_of_it.status_code, picture_of_it.headers["content-type"]) == (200, "image/svg+xml")


def test_the_picture_is_a_thumbnail_kept_by_content_and_gone_with_its_request(world, client):
    content = picture("blue", side=600)
    first, second = sent(client, content), sent(client, content)
    source = get(client, first).one("img", class_="analysis-picture")["src"]
    answer = client.get(source)
    with Image.open(io.BytesIO(answer.content)) as shown:
        assert (shown.format, shown.size) == ("WEBP", (512, 512))
    again = client.get(source, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    kept = list((world.store.root / "thumbnails").rglob("*.webp"))
    assert len(kept) == 1
    for address, left in ((first, 1), (second, 0)):
        assert client.post(f"{address}/delete", headers=origin(client)).headers["location"] == "/ui/analyses"
        assert len([path for path in kept if path.exists()]) == left
    assert client.get(source).status_code == 404
    assert client.get(f"{first}/thumbnail?size=3000").status_code == 422


@pytest.mark.usefixtures("world")
def test_a_deleted_request_is_gone_from_every_page(client):
    address = sent(client, name="secret.png")
    gone = send(client, get(client, address), f"{address}/delete")
    assert (gone.status_code, gone.headers["location"]) == (303, "/ui/analyses")
    assert "secret.png" not in get(client, "/ui/analyses").text
    assert "No analysis request" in get(client, address, status=404).text
    assert client.post(f"{address}/delete", headers=origin(client)).status_code == 404


def test_the_history_lists_requests_newest_first_a_page_at_a_time(world, client):
    for n in range(HISTORY_SHOWN + 2):
        sent(client, name=f"{n}.png", labels="something red,something blue")
    answer_all(world)
    first = get(client, "/ui/analyses")
    rows = list(first.one("tbody").all("tr"))
    assert [row.one(class_="analyses-name").text for row in rows] == [
        f"{n}.png" for n in reversed(range(2, HISTORY_SHOWN + 2))
    ]
    assert rows[0].text.startswith(f"{HISTORY_SHOWN + 1}.png something red")
    assert rows[0].one(class_="badge").text == "completed"
    second = get(client, first.one("a", rel="next")["href"])
    assert [row.one("a").text for row in second.one("tbody").all("tr")] == ["1.png", "0.png"]
    assert not list(second.all("a", rel="next"))
    assert second.one("a", href="/ui/analyses").text == "Newest"


def test_names_and_labels_of_strangers_are_text_and_nothing_else(world, client):
    address = sent(client, name=HOSTILE, labels="</textarea><script>alert(2)</script>,something red")
    answer_all(world)
    for path in (address, "/ui/analyses", "/ui/analyze"):
        html = client.get(path).text
        assert "<script>alert" not in html
        assert "<img src=x" not in html
        assert escape("<img src=x") in html
    assert "</textarea><script>alert(2)</script>" in [label for label, _, _ in bars(get(client, address))]
    refused = post(client, b"no image", labels="</textarea><script>")
    assert "</textarea><script>" not in refused.text


@pytest.mark.parametrize("name", ["unknown", "%00", "a" * 300])
def test_an_unknown_request_is_a_page_that_says_so(client, name):
    get(client, f"/ui/analyze/{name}", status=404)
    assert client.get(f"/ui/analyze/{name}/thumbnail").status_code == 404


def test_a_key_that_may_only_read_sees_results_and_sends_nothing(world, client):
    writer, reader = make_key(world, scope=Scope.WRITE), make_key(world, scope=Scope.READ)
    with browser_at(client) as person:
        log_in(person, writer.token)
        address = sent(person, csrf_token=token_of_page(person))
    with browser_at(client) as person:
        log_in(person, reader.token)
        assert person.get(address).status_code == 200
        assert person.get(f"{address}/thumbnail").status_code == 200
        token = {"csrf_token": token_of_page(person)}
        assert post(person, **token).status_code == 403
        assert person.post(f"{address}/delete", data=token, headers=origin(person)).status_code == 403
    assert len(recent_analyses(world.ledger)) == 1


def test_analyze_is_where_one_is_on_all_of_its_pages(client):
    for path in ("/ui/analyze", "/ui/analyses"):
        assert get(client, path).one("a", aria_current="page").text == "Analyze"
