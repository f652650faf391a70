"""Searches over HTTP: a real server, a real release, a real ledger; only the encoder has no weights."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline_tests.fakes import COLOURS, HashEncoder
from clip_pipeline_tests.poison import KINDS
from clip_pipeline_tests.serving.world import StandInDagster, World, serving, shades, vector_near

COLOURED = {f"/photos/{name}.jpg": f"a {name} thing" for name in COLOURS}
RESULT_FIELDS = {
    "rank", "score", "image_id", "path", "duplicates", "width", "height", "sha256", "format", "size_bytes",
    "labels",
}  # fmt: skip


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A client of a service over `COLOURED`, for tests that only ask."""
    dagster = StandInDagster()
    world = World(tmp_path_factory.mktemp("coloured"), dagster_port=dagster.port)
    world.index(COLOURED)
    with serving(world) as client:
        yield client
    world.close()
    dagster.close()


def picture(colour, kind="PNG", size=(60, 40)):
    stream = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(stream, kind)
    return stream.getvalue()


def paths(response):
    assert response.status_code == 200, response.text
    return [result["path"] for result in response.json()["results"]]


def search(client, **parameters):
    return client.get("/api/v1/search", params=parameters)


def upload(client, content, **fields):
    return client.post("/api/v1/search", files={"file": ("query.png", content)}, data=fields)


def test_a_text_finds_its_image_first(world, client):
    world.index(COLOURED | {"/photos/zweites Rot.jpg": "a red thing"})
    response = search(client, q="something red", k=3)
    document = response.json()
    assert document["query"] == {"text": "something red", "k": 3}
    assert (document["index_release"], document["model_name"]) == ("0000001", "hash-64")
    assert document["took_ms"] > 0
    assert [result["rank"] for result in document["results"]] == [1, 2, 3]
    assert set(document["results"][0]) == RESULT_FIELDS
    first = document["results"][0]
    assert (first["path"], first["duplicates"]) == ("/photos/red.jpg", ["/photos/zweites Rot.jpg"])
    assert (first["width"], first["height"], first["format"]) == (4, 3, "PNG")
    assert first["score"] == pytest.approx(1, abs=1e-3)
    scores = [result["score"] for result in document["results"]]
    assert scores == sorted(scores, reverse=True)
    assert scores == [round(score, 6) for score in scores]


def test_k_is_ten_where_nothing_else_is_asked(world, client):
    world.index(shades(12))
    assert len(search(client, q="anything").json()["results"]) == 10


def test_before_the_first_release_there_are_no_results(world, client):
    for pinned in (False, True):
        if pinned:
            world.pin()
        document = search(client, q="a cat").json()
        assert document["results"] == []
        assert document["index_release"] is None
        assert document["model_name"] == ("hash-64" if pinned else None)
        assert paths(upload(client, picture("red"))) == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({}, "q"),
        ({"q": ""}, "q"),
        ({"q": " \t"}, "q"),
        ({"q": "x" * 10_001}, "q"),
        ({"q": "cat", "k": 0}, "k"),
        ({"q": "cat", "k": 1001}, "k"),
        ({"q": "cat", "k": "many"}, "k"),
    ],
)
def test_a_malformed_question_is_refused_naming_the_field(coloured, parameters, field):
    response = search(coloured, **parameters)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_the_next_search_after_a_publication_uses_it(world, client):
    world.index({"/photos/blue.jpg": "a blue thing"})
    assert paths(search(client, q="red", k=1)) == ["/photos/blue.jpg"]
    world.index({"/photos/red.jpg": "a red thing"})
    response = search(client, q="red", k=1)
    assert paths(response) == ["/photos/red.jpg"]
    assert response.json()["index_release"] == "0000002"


def test_deleted_images_are_replaced_by_what_follows(world, client):
    contents = shades(130)
    world.index(contents)
    everything = paths(search(client, q="anything", k=130))
    world.delete(*everything[:3], *everything[5:40])
    remaining = everything[3:5] + everything[40:]
    assert paths(search(client, q="anything", k=10)) == remaining[:10]
    assert paths(search(client, q="anything", k=1000)) == remaining


def test_k_results_come_even_where_thousands_were_deleted(world, client):
    """A search can fetch 1,000 at most; beyond that the deleted ones are left out of the search itself."""
    contents = shades(1200)
    world.index(contents)
    order = paths(search(client, q="anything", k=1000))
    world.delete(*order)
    last = paths(search(client, q="anything", k=5))
    assert len(last) == 5
    assert not set(last) & set(order)


def test_an_indexed_image_finds_itself_through_any_of_its_paths(world, client):
    world.index(COLOURED | {"/photos/copy.jpg": "a blue thing"})
    for path in ("/photos/blue.jpg", "/photos/copy.jpg"):
        response = client.post("/api/v1/search", json={"image_path": path, "k": 1})
        assert paths(response) == ["/photos/blue.jpg"]
        assert response.json()["query"] == {"image_path": path, "k": 1}


def test_a_path_that_the_index_does_not_hold_is_not_found(world, client):
    world.index(COLOURED)
    world.register("/photos/waiting.jpg")
    world.delete("/photos/red.jpg")
    for path in ("/photos/other.jpg", "/photos/waiting.jpg", "/photos/red.jpg"):
        response = client.post("/api/v1/search", json={"image_path": path})
        assert response.status_code == 404
        assert path in response.json()["detail"]


def test_a_vector_of_any_length_is_normalised(coloured):
    response = coloured.post("/api/v1/search", json={"vector": vector_near(HashEncoder(), "green"), "k": 2})
    assert paths(response)[0] == "/photos/green.jpg"
    assert response.json()["query"] == {"vector_dim": 64, "k": 2}
    assert 0.9 < response.json()["results"][0]["score"] <= 1
    huge = (np.array(vector_near(HashEncoder(), "green")) * 1e300).tolist()
    assert paths(coloured.post("/api/v1/search", json={"vector": huge, "k": 2})) == paths(response)


@pytest.mark.parametrize("vector", ["[]", "[0.5, 1]", f"[{'0,' * 63}0]", f"[{'1,' * 63}NaN]", f"[{'1,' * 63}1e999]"])
def test_a_vector_that_is_none_is_refused(coloured, vector):
    body = f'{{"vector": {vector}}}'
    response = coloured.post("/api/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "vector"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "image_path": "/b"},
        {"text": ""},
        {"text": None},
        {"text": "a", "k": 0},
        {"text": "a", "filter": {"colour": "red"}},
        {"image_path": "/a\0b"},
        [],
        "text",
    ],
)
def test_a_body_that_asks_nothing_or_too_much_is_refused(coloured, body):
    response = coloured.post("/api/v1/search", json=body)
    assert response.status_code == 422
    assert response.json()["errors"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"text": ', "application/json", 422),
        (b'{"text": "\\ud800"}', "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b" " * 1024**2 + b"{}", "application/json", 413),
        (b"a cat", "text/plain", 415),
        (b"no form", "multipart/form-data", 400),
        (b"no form", "multipart/form-data; boundary=x", 400),
    ],
)
def test_a_body_that_is_no_request_is_a_problem(coloured, content, kind, status):
    response = coloured.post("/api/v1/search", content=content, headers={"Content-Type": kind})
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"


def test_a_score_floor_cuts_the_results(coloured):
    response = coloured.post("/api/v1/search", json={"text": "red", "min_score": 0.9})
    assert paths(response) == ["/photos/red.jpg"]
    assert response.json()["query"] == {"text": "red", "k": 10, "min_score": 0.9}


def test_an_uploaded_image_finds_its_like(coloured):
    for kind in ("PNG", "JPEG", "WEBP", "TIFF"):
        response = upload(coloured, picture("yellow", kind), k="1")
        assert paths(response) == ["/photos/yellow.jpg"]
        assert response.json()["query"] == {"file": "query.png", "k": 1}


def test_a_poison_upload_is_refused_with_the_reason_and_the_next_one_works(coloured):
    for name, make, reasons in KINDS:
        response = upload(coloured, make(np.random.default_rng(0)))
        assert response.status_code in {415, 422}, name
        (error,) = response.json()["errors"]
        assert error["field"] == "file"
        assert error["detail"].partition(":")[0] in reasons, name
    assert upload(coloured, b"just text").status_code == 415
    assert paths(upload(coloured, picture("red"), k="1")) == ["/photos/red.jpg"]


def test_an_upload_without_a_file_or_with_a_strange_field_is_refused(coloured):
    missing = coloured.post("/api/v1/search", files={"image": ("x.png", picture("red"))})
    assert [error["field"] for error in missing.json()["errors"]] == ["file"]
    assert [error["field"] for error in upload(coloured, picture("red"), k="0").json()["errors"]] == ["k"]
    assert [error["field"] for error in upload(coloured, picture("red"), filter="x").json()["errors"]] == ["filter"]


def test_an_upload_beyond_the_limit_is_refused_while_it_comes(world):
    world.settings = world.settings.model_copy(update={"max_image_bytes": 200_000})
    with serving(world) as client:
        world.index(COLOURED)
        assert upload(client, b"\0" * 400_000).status_code == 413

        def without_length():
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            yield from [b"\0" * 50_000] * 8

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        assert client.post("/api/v1/search", content=without_length(), headers=headers).status_code == 413
        assert upload(client, b"\0" * 210_000).json()["errors"][0]["detail"].startswith("too-many-bytes")


def test_queries_wait_for_the_encoder_and_health_does_not(world):
    may_load, threads = threading.Event(), []

    def load_slowly(spec):
        may_load.wait(30)
        return world.load(spec)

    world.index(COLOURED)
    answers = []
    with serving(world, load=load_slowly) as client:
        for _ in range(50):
            thread = threading.Thread(target=lambda: answers.append(paths(search(client, q="red", k=1))))
            thread.start()
            threads.append(thread)
        assert client.get("/health").json()["parts"]["encoder"]["state"] == "loading"
        assert client.get("/api/v1/index/stats").json()["total_images"] == len(COLOURED)
        assert answers == []
        may_load.set()
        for thread in threads:
            thread.join()
    assert answers == [["/photos/red.jpg"]] * 50


def test_an_encoder_that_cannot_be_loaded_is_said_to_be_unavailable(world):
    def refuse(spec):
        raise EncoderUnavailableError(f"no weights for {spec.name}; download them")

    world.index(COLOURED)
    with serving(world, load=refuse) as client:
        response = search(client, q="red")
        assert (response.status_code, response.json()["detail"]) == (503, "no weights for test-hash-0; download them")
        assert client.get("/health").json()["failing"] == ["encoder"]
        assert paths(client.post("/api/v1/search", json={"image_path": "/photos/red.jpg", "k": 1})) == [
            "/photos/red.jpg"
        ]


def test_an_encoder_other_than_the_pinned_one_is_refused(world):
    world.index(COLOURED)
    with serving(world, load=lambda _: HashEncoder(seed=1)) as client:
        response = search(client, q="red")
    assert response.status_code == 409
    assert "pinned to test-hash-0" in response.json()["detail"]
