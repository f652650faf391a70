"""Hostile requests over real connections: each is a problem document that gives nothing away; nothing is queued."""

import io
import json
import socket
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.ledger.schema import files, jobs
from clip_pipeline_tests.fakes import COLOURS
from clip_pipeline_tests.poison import KINDS
from clip_pipeline_tests.serving.world import World, serving

ADD, IMAGES, SEARCH = "/api/v1/index/add-images", "/api/v1/index/images", "/api/v1/search"
JSON_ROUTES = (("POST", ADD), ("DELETE", IMAGES), ("POST", SEARCH))
MANY = 100_000
BAD_JSON = (
    b"",
    b"{",
    b"nul",
    b"\xff\xfe{}",
    b"[]",
    b'"text"',
    b"17",
    b"null",
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b'{"image_paths": "/a", "text": 5}',
    b'{"image_paths": [{}], "text": ["a"]}',
    b'{"image_paths": [true], "text": "a", "k": true}',
    b'{"image_paths": ["/a"], "priority": "5", "text": "a", "k": "5"}',
    b'{"image_paths": ["/\\ud800"], "text": "\\ud800"}',
    b'{"image_paths": ["\\u0000"], "text": "\\u0000"}',
    b'{"priority": 1e400, "text": "a", "min_score": NaN}',
    b'{"__proto__": {}, "image_paths": [], "text": ""}',
    b'{"priority": ' + b"9" * 5_000 + b', "k": ' + b"9" * 5_000 + b"}",
)


@pytest.fixture
def world(tmp_path, dagster):
    (tmp_path / "photos").mkdir()
    opened = World(tmp_path / "home", dagster_port=dagster.port, roots=str(tmp_path / "photos"))
    yield opened
    opened.close()


def queued(world):
    """Jobs and files that the ledger knows."""
    with world.ledger.read() as connection:
        return tuple(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (jobs, files)
        )


def check_refused(response, *statuses):
    """A problem document of one of these statuses, short, without a word about the code."""
    assert response.status_code in statuses, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["detail"]
    assert len(response.content) < 200_000
    for word in ("Traceback", ".py", "pydantic", "sqlalchemy"):
        assert word not in response.text
    return document


@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
def test_json_that_is_none_or_of_wrong_types_is_refused(world, client, method, path):
    for content in BAD_JSON:
        response = client.request(method, path, content=content, headers={"Content-Type": "application/json"})
        check_refused(response, 422)
    assert queued(world) == (0, 0)


@pytest.mark.parametrize(
    "paths",
    [[f"not/absolute/{i:090d}.jpg" for i in range(MANY)], [f"/etc/{i:095d}" for i in range(MANY)], ["/x" * 5_000_000]],
    ids=["relative", "outside", "one"],
)
def test_ten_megabytes_of_paths_are_refused_in_few_words(world, client, paths):
    document = check_refused(client.post(ADD, json={"image_paths": paths}), 422)
    assert document["errors_count"] == len(paths)
    assert len(document["errors"]) == min(len(paths), 100)
    assert queued(world) == (0, 0)
    assert client.get("/health").status_code == 200


def test_paths_that_lead_out_of_the_roots_are_refused_in_every_guise(world, client, tmp_path):
    root = tmp_path / "photos"
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "door").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    inside = (
        "/../secret.jpg",
        "/link.jpg",
        "/door/secret.jpg",
        "/./x/../../secret.jpg",
        "/loop/../../secret.jpg",
        "\0/a",
    )
    guises = [f"{root}{rest}" for rest in inside] + ["//etc/passwd", "file:///etc/passwd", "\\\\host\\a"]
    for field in ("image_paths", "recursive_dirs"):
        document = check_refused(client.post(ADD, json={field: guises}), 422)
        assert [error["field"] for error in document["errors"]] == [f"{field}.{i}" for i in range(len(guises))]
    assert queued(world) == (0, 0)


@pytest.mark.parametrize("job_id", ["idx_0", "%00", "..%2f..%2fetc", "%F0%9F%92%A9", "a" * 5_000, "'%20OR%201=1--"])
def test_unknown_ids_are_not_found(client, job_id):
    for method, path in (("GET", "/api/v1/index/status/{}"), ("POST", "/api/v1/index/jobs/{}/retry"),
                         ("DELETE", "/api/v1/index/jobs/{}")):  # fmt: skip
        check_refused(client.request(method, path.format(job_id)), 404)
    check_refused(client.get(f"/api/v1/images/{job_id}/thumbnail"), 404, 422)


def test_uploads_that_are_no_usable_image_are_refused_and_the_next_good_one_is_not(world, client):
    world.index({f"/photos/{name}.jpg": f"a {name} thing" for name in COLOURS})
    before = queued(world)
    for name, make, _ in KINDS:
        check_refused(client.post(SEARCH, files={"file": (name, make(np.random.default_rng(1)))}), 413, 415, 422)
    thin = io.BytesIO()
    Image.new("RGB", (1, 30_000), COLOURS["red"]).save(thin, "PNG")
    begun = time.monotonic()
    assert client.post(SEARCH, files={"file": ("thin.png", thin.getvalue())}).status_code == 200  # odd, and harmless
    assert time.monotonic() - begun < 5
    good = io.BytesIO()
    Image.new("RGB", (40, 30), COLOURS["red"]).save(good, "PNG")
    (hit,) = client.post(SEARCH, files={"file": ("good.png", good.getvalue())}, data={"k": "1"}).json()["results"]
    assert hit["path"] == "/photos/red.jpg"
    assert queued(world) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "{bad}"},
        {"Authorization": "Bearer {bad}"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer " + "x" * 8_000},
        {"X-API-Key": "{expired}"},
    ],
)
def test_without_a_valid_key_nothing_is_queued(world, client, tmp_path, headers):
    past = datetime.now(UTC) - timedelta(seconds=1)
    tokens = {
        "expired": create_key(world.ledger, "old", scope=Scope.ADMIN, expires_at=past).token,
        "bad": create_key(world.ledger, "new", scope=Scope.ADMIN, expires_at=None).token[:-1] + "!",
    }
    sent = {name: value.format(**tokens) for name, value in headers.items()}
    body = {"image_paths": [f"{tmp_path}/photos/a.jpg"]}
    refused = client.post(ADD, json=body, headers=sent)
    check_refused(refused, 401)
    assert refused.headers["WWW-Authenticate"].startswith("Bearer ")
    assert queued(world) == (0, 0)


def test_a_key_that_may_only_read_queues_cancels_and_removes_nothing(world, client, tmp_path):
    job_id = world.register("/photos/waiting.jpg").job_id
    before = queued(world)
    headers = {"X-API-Key": create_key(world.ledger, "reader", scope=Scope.READ, expires_at=None).token}
    body = {"image_paths": [f"{tmp_path}/photos/a.jpg", "/photos/waiting.jpg"]}
    check_refused(client.post(ADD, json=body, headers=headers), 403)
    check_refused(client.request("DELETE", IMAGES, json=body, headers=headers), 403)
    check_refused(client.post(f"/api/v1/index/jobs/{job_id}/retry", headers=headers), 403)
    check_refused(client.delete(f"/api/v1/index/jobs/{job_id}", headers=headers), 403)
    assert client.get(f"/api/v1/index/status/{job_id}", headers=headers).json()["status"] == "queued"
    assert queued(world) == before


@pytest.mark.parametrize(
    ("path", "kind", "begin"),
    [
        (
            SEARCH,
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"',
        ),
        (ADD, "application/json", b'{"image_paths": ["/a'),
    ],
)
def test_a_body_that_drips_is_cut_off_and_others_are_served_meanwhile(world, path, kind, begin):
    world.settings = world.settings.model_copy(update={"body_timeout_s": 0.5})
    with serving(world) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=10) as connection:
            connection.sendall(head.encode() + begin)
            assert client.get("/api/v1/index/stats").status_code == 200
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        status, _, rest = answer.partition(b"\r\n")
        assert status.startswith(b"HTTP/1.1 408 ")
        assert b"application/problem+json" in rest
        assert json.loads(rest.partition(b"\r\n\r\n")[2])["status"] == 408
    assert queued(world) == (0, 0)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: \x00\r\n\r\n",
        b"POST /api/v1/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_called_a_bad_request(client, request_bytes):
    with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=10) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Traceback" not in answer
    assert client.get("/health").status_code == 200


UPLOAD_FORMS = (SEARCH, "/analyze-image", "/ui/search", "/ui/analyze")
TEXT_FORMS = ("/ui/login", "/ui/jobs", "/ui/labels", "/ui/logout")


CHARSETS = ("undefined", "punycode", "utf-7", "idna", "latin-1", '"utf-16"', "x")


@pytest.mark.parametrize("path", UPLOAD_FORMS + TEXT_FORMS)
def test_a_form_of_another_charset_than_utf_8_is_refused(client, path):
    """Any codec there is was used to decode the form, and those that fail gave a 500."""
    kind = "multipart/form-data; boundary=B" if path in UPLOAD_FORMS else "application/x-www-form-urlencoded"
    body = b'--B\r\nContent-Disposition: form-data; name="file"; filename="+2AA-"\r\n\r\nx\r\n--B--\r\n'

    def answer_to(charset):
        return client.post(path, content=body, headers={"Content-Type": f"{kind}; charset={charset}"})

    for answer in map(answer_to, CHARSETS):
        assert answer.status_code == 415
        assert "a form in UTF-8" in answer.text
    assert "a form in UTF-8" not in answer_to("UTF-8").text


@pytest.mark.parametrize("path", TEXT_FORMS)
def test_a_form_of_text_in_parts_is_refused(client, path):
    headers = {"Content-Type": "multipart/form-data; boundary=B; charset=undefined"}
    body = b'--B\r\nContent-Disposition: form-data; name="next"\r\n\r\nx\r\n--B--\r\n'
    assert client.post(path, content=body, headers=headers).status_code == 415


@pytest.mark.parametrize("path", ["/ui/login", "/ui/logout", "/ui/jobs/idx_0/cancel", "/ui/labels/use"])
def test_a_form_of_a_few_fields_takes_no_megabytes(client, path):
    """Sixteen megabytes of `&` were read field by field while every other request waited."""
    for content in (b"&" * 16 * 1024**2, b"&" * 17 * 1024):
        response = client.post(path, content=content, headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert response.status_code == 413


def test_too_many_fields_are_refused_before_they_are_read(client):
    begun = time.monotonic()
    for content in (b"&" * (16 * 1024**2 - 1), b"a=b&" * 32):
        response = client.post(
            "/ui/jobs", content=content, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert response.status_code == 400
        assert "at most 32 fields" in response.text
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "path", ["/ui/jobs?created_before=%00", "/ui/jobs?created_before=a&after=%00", "/ui/failures/corrupt?after=%00"]
)
def test_a_place_in_a_list_with_a_null_character_is_none(client, path):
    """Not every database takes the question."""
    assert client.get(path).status_code == 422


def test_a_place_among_the_failures_of_a_job_with_a_null_character_is_none(world, client):
    job_id = world.register("/photos/a.jpg").job_id
    assert client.get(f"/ui/jobs/{job_id}?failed_after=%00").status_code == 422
