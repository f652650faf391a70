"""The search page over HTTP, without a browser: what it shows, says and refuses, by links and forms alone."""

import io
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.serving.filter_fields import FilterFields
from clip_pipeline.serving.pages.search_form import SearchForm
from clip_pipeline_tests.fakes import COLOURS, HashEncoder
from clip_pipeline_tests.poison import KINDS
from clip_pipeline_tests.serving.pages.reading import read
from clip_pipeline_tests.serving.world import StandInDagster, World, serving, shades

COLOURED = {f"/photos/{name}.jpg": f"a {name} thing" for name in COLOURS}
HOSTILE = "/photos/\"><script>alert(1)</script>/'><img src=x onerror=alert(2)>{{ 7*7 }}&amp;.jpg"


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A client of a service over `COLOURED` and one duplicate, for tests that only ask."""
    dagster = StandInDagster()
    world = World(tmp_path_factory.mktemp("coloured"), dagster_port=dagster.port)
    world.index(COLOURED | {"/photos/z red.jpg": "a red thing"})
    with serving(world) as client:
        yield client
    world.close()
    dagster.close()


def picture(colour, size=(60, 40)):
    stream = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(stream, "PNG")
    return stream.getvalue()


def search(client, status=200, **parameters):
    return read(client.get("/ui/search", params=parameters), status=status)


def upload(client, content, *, status=200, name="query.png", **fields):
    return read(client.post("/ui/search", files={"file": (name, content)}, data=fields), status=status)


def id_of(client, path):
    return client.get("/api/v1/index/images", params={"path": path}).json()["image_id"]


def test_a_browser_at_the_root_goes_on_to_the_search_and_a_program_gets_its_document(coloured):
    answer = coloured.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/search")
    assert coloured.get("/").json()["service"] == "clip-pipeline"


def test_words_find_what_the_api_finds_in_the_same_order(coloured):
    parameters = {"q": "something red", "k": 30}
    results = coloured.get("/api/v1/search", params=parameters).json()["results"]
    page = search(coloured, **parameters)
    assert page.hits == [result["image_id"] for result in results]
    for result in results:
        assert f"{result['score']:.3f}" in page.text
    assert page.values("input", "value")[0] == "something red"
    assert "release 0000001 · hash-64" in page.text
    assert "2 files with this content" in page.text
    assert "4 \N{MULTIPLICATION SIGN} 3 · PNG · 101 bytes" in page.text


def test_every_picture_has_a_name_a_size_and_is_loaded_when_it_is_seen(coloured):
    pictures = [one for one in search(coloured, q="red").all("img") if "thumbnail" in one["src"]]
    assert {one["alt"] for one in pictures} == {f"{name}.jpg" for name in COLOURS}
    assert all(one["loading"] == "lazy" and one["width"] == "4" and one["height"] == "3" for one in pictures)


def test_more_like_this_leads_to_the_others_within_the_same_filters(coloured):
    red = id_of(coloured, "/photos/red.jpg")
    links = search(coloured, q="red", path_prefix="/photos/").values("a", "href")
    assert f"/ui/search?path_prefix=%2Fphotos%2F&like={red}" in links
    page = search(coloured, like=red)
    assert red not in page.hits
    assert len(page.hits) == len(COLOURS) - 1
    assert "More like red.jpg" in page.text
    assert search(coloured, like=red, k=2).hits == page.hits[:2]


def test_an_image_that_is_sent_finds_its_like(coloured):
    page = upload(coloured, picture("blue"), name="my <b>blue</b>.png", k="2")
    assert page.hits[0] == id_of(coloured, "/photos/blue.jpg")
    assert len(page.hits) == 2
    assert "Images like my <b>blue</b>.png" in page.text


def test_filters_hold_for_words_likeness_and_sent_images(world, client):
    world.index(COLOURED | {"/other/red too.jpg": "a red and quite another thing"})
    kept = [id_of(client, "/other/red too.jpg")]
    limits: dict[str, Any] = {"path_prefix": "/other/", "format": "png", "min_width": "4", "min_score": ""}
    limits["indexed_after"] = "2020-01-01"
    assert search(client, q="red", **limits).hits == kept
    assert search(client, like=id_of(client, "/photos/red.jpg"), **limits).hits == kept
    page = upload(client, picture("green"), **limits)
    assert page.hits == kept
    hidden = {one["name"]: one["value"] for one in page.all("input") if one.get("type") == "hidden"}
    assert hidden == {name: text for name, text in limits.items() if text}


def test_every_filter_of_the_api_that_the_page_offers_is_one_of_the_api(coloured):
    names = {one["name"] for tag in ("input", "select") for one in search(coloured).all(tag)}
    assert names - set(FilterFields.model_fields) == {"q", "k", "min_score", "file"}


def test_show_more_asks_for_more_until_there_is_no_more(world, client):
    world.index(shades(70))
    page = search(client, q="anything")
    assert len(page.hits) == 30
    (more,) = [one["href"] for one in page.all("a") if "data-more" in one]
    assert more == "/ui/search?q=anything&k=60"
    page = read(client.get(more))
    assert len(page.hits) == 60
    (more,) = [one["href"] for one in page.all("a") if "data-more" in one]
    page = read(client.get(more))
    assert len(page.hits) == 70
    assert not [one for one in page.all("a") if "data-more" in one]


def test_no_more_than_the_api_gives_is_offered():
    assert SearchForm.of({"q": "x", "k": "1000"}).more is None


def test_before_anything_is_asked_the_newest_images_are_shown(coloured):
    page = search(coloured)
    assert page.hits == sorted((id_of(coloured, path) for path in COLOURED), reverse=True)
    assert f"{len(COLOURED)} images in release 0000001, encoder hash-64" in page.text
    assert not page.all("progress")


def test_before_the_first_image_the_page_says_how_to_add_some(client):
    for text in ("", "a cat"):
        page = search(client, q=text)
        assert "Nothing is indexed yet" in page.text
        assert "/ui/jobs#add" in page.values("a", "href")


def test_where_no_image_is_within_the_filters_they_can_be_dropped(coloured):
    page = search(coloured, q="red", path_prefix="/nowhere/")
    assert "No image fits" in page.text
    assert "/ui/search?q=red" in page.values("a", "href")


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("k", "1001", "less than or equal to 1000"), ("k", "many", "a valid integer"),
        ("min_width", "-1", "greater than"), ("min_score", "nan", "finite"), ("format", "DOC", "one of"),
        ("indexed_after", "soon", "ISO 8601"), ("like", "0", "greater than"), ("like", str(2**63), "less than"),
        ("q", "a\0b", "null"),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_is_named_beside_what_was_typed(coloured, field, text, said):
    page = search(coloured, status=422, **{"q": "red"} | {field: text})
    assert said.lower() in page.text.lower()
    assert field.replace("_", " ") in page.text
    upload(coloured, picture("red"), status=422, **{field: text})


def test_images_like_one_that_is_not_there_are_a_page_that_says_so(coloured):
    assert "holds no image 99" in search(coloured, status=404, like=99).text


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, make, _ in KINDS], ids=[name for name, *_ in KINDS])
def test_what_is_no_image_is_refused_in_words_with_the_status_of_the_api(coloured, name, make):
    content = make(np.random.default_rng(0))
    refused = coloured.post("/api/v1/search", files={"file": (name, content)})
    assert refused.status_code in (413, 415, 422)
    page = upload(coloured, content, status=refused.status_code, name=name)
    assert "That image cannot be used" in page.text
    assert page.hits == []


def test_a_form_without_a_file_or_with_too_long_a_one_is_a_page_too(tmp_path, dagster):
    world = World(tmp_path / "home", dagster_port=dagster.port, max_image_bytes=1000)
    with serving(world) as client:
        assert "Expected an image file" in read(client.post("/ui/search", data={"q": "x"}), status=422).text
        page = upload(client, bytes(200_000), status=413)
        assert "at most" in page.text
        assert page.all("nav") == [{"class": "site-nav", "aria-label": "Site"}]
    world.close()


def test_while_the_weights_load_the_page_says_so_at_once_and_likeness_needs_none(world):
    world.index(COLOURED)
    loaded = threading.Event()

    def load(_spec):
        assert loaded.wait(60)
        return HashEncoder()

    with serving(world, load=load) as client:
        try:
            answer = client.get("/ui/search", params={"q": "red"})
            page = read(answer, status=503)
            assert "The encoder is loading" in page.text
            assert answer.headers["Retry-After"] == "2"
            assert {"http-equiv": "refresh", "content": "3"} in page.all("meta")
            assert len(search(client, like=1).hits) == len(COLOURED) - 1
        finally:
            loaded.set()
        answered = client.get("/api/v1/search", params={"q": "red"})  # waits for the weights
        assert answered.status_code == 200
        assert len(search(client, q="red").hits) == len(COLOURED)


def test_hostile_file_names_stay_text(world, client):
    world.index(COLOURED | {HOSTILE: "a red and hostile thing"})
    image_id = id_of(client, HOSTILE)
    for page in (search(client, q="red"), search(client, like=image_id), read(client.get(f"/ui/images/{image_id}"))):
        assert HOSTILE.rpartition("/")[2] in page.text
        assert all(one.get("src", "").startswith("/ui/static/") for one in page.all("script"))
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    page = search(client, q='"><script>alert(3)</script>')
    assert page.values("input", "value")[0] == '"><script>alert(3)</script>'


def test_one_image_has_a_page_with_all_that_is_known_of_it(coloured):
    image_id = id_of(coloured, "/photos/red.jpg")
    page = read(coloured.get(f"/ui/images/{image_id}"))
    for part in (
        "/photos/red.jpg",
        "/photos/z red.jpg",
        "indexed",
        "b0000001",
        "0000001",
        "4 \N{MULTIPLICATION SIGN} 3 pixels",
        "1 more file",
    ):
        assert part in page.text, part
    assert f"/ui/search?like={image_id}" in page.values("a", "href")
    assert any(link.endswith("/runs/run") for link in page.values("a", "href"))
    assert any(link.startswith("/ui/jobs/idx_") for link in page.values("a", "href"))
    assert "No image 99 is indexed" in read(coloured.get("/ui/images/99"), status=404).text
    read(coloured.get("/ui/images/none"), status=422)


def test_a_key_is_needed_where_keys_exist_and_a_reader_may_search(world):
    world.index(COLOURED)
    key = create_key(world.ledger, "reader", scope=Scope.READ, expires_at=None).token
    with serving(world) as fresh:
        headers = {"Authorization": f"Bearer {key}"}
        assert len(read(fresh.get("/ui/search?q=red", headers=headers)).hits) == len(COLOURED)
        sent = fresh.post("/ui/search", files={"file": picture("red")}, headers=headers)
        assert len(read(sent).hits) == len(COLOURED)
        refused = fresh.get("/ui/search?q=red", headers={"Accept": "text/html"})
        assert refused.status_code in (303, 401)
        assert "data-hit" not in refused.text
