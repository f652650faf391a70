"""What every page has in common: its headers, where its parts come from, and faults as pages."""

import hashlib
import re
from urllib.parse import urlsplit

import pytest

from clip_pipeline.serving.pages.search_view import NARROWEST, RATIO_STEP, WIDEST
from clip_pipeline.serving.pages.static_files import FOLDER, static_url
from clip_pipeline_tests.serving.pages.reading import read

PAGES = ("/ui/search", "/ui/search?q=red", "/ui/images/1", "/ui/jobs", "/ui/analyze", "/ui/analyses",
         "/ui/labels", "/ui/labels/everyday", "/ui/stats", "/docs", "/ui/nothing")  # fmt: skip
ADDRESSES = ("href", "src", "action", "srcset", "formaction")


@pytest.fixture(params=PAGES)
def answer(request, world, client):
    """One page of a service with an image in its index."""
    world.index({"/photos/red.jpg": "a red thing"})
    return client.get(request.param)


def test_a_page_allows_no_script_or_style_of_its_own_and_nothing_from_elsewhere(answer):
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert not {"script-src", "style-src", "connect-src"} & policy.keys()
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    page = read(answer, status=answer.status_code)
    assert not page.all("style")
    assert all("src" in script for script in page.all("script"))
    inline = [name for _, attributes in page.elements for name in attributes if name == "style" or name[:2] == "on"]
    assert inline == []


def test_all_that_a_page_loads_or_sends_to_is_of_this_service(answer, client, dagster):
    page = read(answer, status=answer.status_code)
    links = {one[name] for _, one in page.elements for name in ADDRESSES if name in one}
    elsewhere = {urlsplit(link).netloc for link in links} - {"", f"127.0.0.1:{dagster.port}"}
    assert elsewhere == set()
    loaded = [one["href"] for one in page.all("link")] + page.values("script", "src")
    assert len(loaded) >= 4
    for link in loaded:
        assert client.get(link).status_code == 200, link


def test_a_page_says_where_it_is_and_lets_the_header_be_skipped(answer):
    page = read(answer, status=answer.status_code)
    assert page.all("html") == [{"lang": "en"}]
    assert page.all("a")[0] == {"class": "skip-link", "href": "#main"}
    assert "main" in [main["id"] for main in page.all("main")]
    current = [one["href"] for one in page.all("a") if one.get("aria-current") == "page"]
    path = {"/ui/analyses": "/ui/analyze", "/ui/labels/everyday": "/ui/labels"}.get(answer.url.path, answer.url.path)
    places = ("/ui/search", "/ui/jobs", "/ui/analyze", "/ui/labels", "/ui/stats", "/docs")
    assert current == [url for url in places if url == path]


def test_static_files_are_kept_for_ever_under_an_address_that_their_content_decides(client):
    address = static_url("style.css")
    answer = client.get(address)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"].startswith("text/css")
    assert client.get(address, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    of_another_version = re.sub("/[0-9a-f]{16}/", "/0123456789abcdef/", address)
    assert client.get(of_another_version).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["%2e%2e/app.py", "..%2f..%2fapp.py", "none.css", "", "vendor"])
def test_nothing_but_static_files_is_served_as_one(client, path):
    assert client.get(f"/ui/static/x/{path}").status_code in (404, 422)


def test_a_fault_is_a_page_where_people_look_and_a_document_elsewhere(client):
    assert "There is nothing at this address." in read(client.get("/ui/nothing"), status=404).text
    refused = client.delete("/ui/search", headers={"X-Request-ID": "mine"})
    assert "405" in read(refused, status=405).text
    assert refused.headers["X-Request-ID"] == "mine"
    for path in ("/uix", "/api/v1/nothing", "/docsx"):
        assert client.get(path).headers["content-type"] == "application/problem+json", path


def test_the_dot_tells_whether_every_part_is_well(client, dagster):
    assert client.get("/ui/health").json()["health"] == "ok"
    dagster.status = 500
    assert client.get("/ui/health").json() == {"health": "failing", "text": "Failing: orchestrator"}


def test_what_others_made_is_as_they_published_it():
    vendor = FOLDER / "vendor"
    lines = re.findall(r"^    (\w{64})  (.+)$", (vendor / "README.md").read_text(), re.MULTILINE)
    there = [path for path in vendor.rglob("*") if path.is_file() and path != vendor / "README.md"]
    digests = {str(path.relative_to(vendor)): hashlib.sha256(path.read_bytes()).hexdigest() for path in there}
    assert digests == {name: digest for digest, name in lines}
    notice = (FOLDER.parents[2] / "NOTICE").read_text()
    assert all(folder.name in notice for folder in vendor.iterdir() if folder.is_dir())


def test_the_style_sheet_has_every_shape_that_a_result_may_have():
    found = re.findall(r"\.shape-(\d+) \{ --ratio: ([\d.]+); \}", (FOLDER / "search.css").read_text())
    steps = range(NARROWEST, WIDEST + 1)
    assert [int(number) for number, _ in found] == [step - NARROWEST for step in steps]
    assert [float(ratio) for _, ratio in found] == pytest.approx([RATIO_STEP**step for step in steps], abs=1e-3)
