"""Canceling, removing, finding and showing images over HTTP, and filters of a search: real files, ledger, release."""

import hashlib
import io

import graphql
import numpy as np
import pytest
from dagster_graphql.schema import create_schema
from PIL import Image

from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.schema import images
from clip_pipeline.serving.api_models import CanceledJobModel, RemovedImagesModel, WhereaboutsModel
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.serving.world import World, serving, vector_near, with_other_weights

COLOURS = {"/p/red.jpg": "a red thing", "/p/blue.jpg": "a blue thing", "/q/green.jpg": "a green thing"}


def cancel(client, job_id):
    return client.delete(f"/api/v1/index/jobs/{job_id}")


def found(client, **filters):
    response = client.post("/api/v1/search", json={"text": "red", "filter": filters})
    assert response.status_code == 200, response.text
    return {result["path"] for result in response.json()["results"]}


def test_a_canceled_job_leaves_nothing_in_work_and_may_be_submitted_anew(world, client, dagster):
    job_id = world.register("/a", "/b").job_id
    (batch,) = steps.plan(world.ledger)
    dagster.add_run(job_id, "r1", "STARTED", work=f"inspect:{batch}")
    document = cancel(client, job_id).json()
    CanceledJobModel.model_validate(document)
    assert (document["withdrawn_images"], document["terminated_runs"]) == (2, ["r1"])
    status = client.get(f"/api/v1/index/status/{job_id}").json()
    assert (status["status"], status["progress"]["processed_images"]) == ("canceled", 0)
    assert cancel(client, job_id).json() == document | {
        "withdrawn_images": 0, "terminated_runs": [],
        "message": "Canceled; 0 images taken out of the queue, 0 runs ended",
    }  # fmt: skip
    assert steps.plan(world.ledger) == []
    assert balance(world.ledger).files["deleted"] == 2
    assert balance(world.ledger).holds
    assert world.register("/a").new_images_count == 1
    schema = create_schema().graphql_schema
    assert not [e for r in dagster.asked for e in graphql.validate(schema, graphql.parse(r["query"]))]


def test_what_another_job_waits_for_goes_on_and_so_does_its_run(world, client, dagster):
    first = world.register("/a", "/b").job_id
    second = world.register("/b").job_id
    (batch,) = steps.plan(world.ledger)
    dagster.add_run(first, "r1", "STARTED", work=f"inspect:{batch}")
    document = cancel(client, first).json()
    assert (document["withdrawn_images"], document["terminated_runs"], document["left_runs"]) == (1, [], ["r1"])
    world.pin()
    steps.embed(world.ledger, batch, steps.inspect(world.ledger, batch, {"/b": "x"}))
    steps.merge(world.ledger)
    assert client.get(f"/api/v1/index/status/{second}").json()["status"] == "completed"


def test_a_complete_job_cannot_be_canceled_and_dagster_need_not_be_there(world, client, dagster):
    assert cancel(client, world.index(COLOURS)).status_code == 409
    job_id = world.register("/new").job_id
    dagster.status = 500
    document = cancel(client, job_id).json()
    assert (document["status"], document["withdrawn_images"]) == ("canceled", 1)
    assert "500" in document["warning"]


def test_removed_images_are_gone_from_search_at_once(world, client):
    world.index(COLOURS)
    body = {"image_paths": ["/p/red.jpg", "/p/red.jpg", "/p/never.jpg"]}
    document = client.request("DELETE", "/api/v1/index/images", json=body).json()
    RemovedImagesModel.model_validate(document)
    assert document == {"removed": 1, "not_found": ["/p/never.jpg"]}
    assert found(client) == {"/p/blue.jpg", "/q/green.jpg"}
    again = client.request("DELETE", "/api/v1/index/images", json=body).json()
    assert again == {"removed": 0, "not_found": ["/p/red.jpg", "/p/never.jpg"]}
    assert balance(world.ledger).holds


@pytest.mark.parametrize("body", [{}, {"image_paths": []}, {"image_paths": ["a"]}, {"image_paths": ["/\0"]}, []])
def test_a_removal_that_names_nothing_usable_is_refused(client, body):
    response = client.request("DELETE", "/api/v1/index/images", json=body)
    assert (response.status_code, len(response.json()["errors"])) == (422, 1)


def test_where_an_image_is_and_why(world, client):
    job_id = world.index(COLOURS | {"/q/copy.jpg": "a red thing"})
    world.register("/p/gone.jpg")
    world.embed({})

    def where(path):
        return client.get("/api/v1/index/images", params={"path": path})

    indexed = where("/p/red.jpg").json()
    WhereaboutsModel.model_validate(indexed)
    assert (indexed["state"], indexed["batch"], indexed["run_id"]) == ("indexed", "b0000001", "run")
    assert (indexed["index_release"], indexed["duplicates"], indexed["job_ids"]) == (
        "0000001",
        ["/q/copy.jpg"],
        [job_id],
    )
    assert where("/q/copy.jpg").json()["standing_path"] == "/p/red.jpg"
    failed = where("/p/gone.jpg").json()
    assert (failed["state"], failed["reason"], failed["index_release"]) == ("failed", "missing: /p/gone.jpg", None)
    assert where("/p/never.jpg").status_code == 404
    assert where("relative").status_code == where("/\0").status_code == 422


def test_filters_choose_by_path_format_size_and_time(world, client):
    world.index(COLOURS)
    with world.ledger.write() as connection:
        connection.execute(images.update().where(images.c.image_id == 1).values(format="JPEG", width=900))
        connection.execute(images.update().where(images.c.image_id == 2).values(indexed_at="2020-01-01T00:00:00.000Z"))
    by_id = {r["image_id"]: r["path"] for r in client.get("/api/v1/search?q=x").json()["results"]}
    assert found(client) == set(COLOURS)
    assert found(client, path_prefix="/p/") == {"/p/red.jpg", "/p/blue.jpg"}
    assert found(client, path_prefix="/p/r") == {"/p/red.jpg"}
    assert found(client, path_prefix="/P/") == set()
    assert found(client, format="jpg") == found(client, min_width=5) == {by_id[1]}
    assert found(client, max_width=4, max_height=3, min_height=3) == {by_id[2], by_id[3]}
    assert found(client, indexed_before="2020-06-01") == {by_id[2]}
    assert found(client, indexed_after="2020-01-01T01:00:00.001+01:00") == {by_id[1], by_id[3]}
    got = client.get("/api/v1/search", params={"q": "red", "path_prefix": "/p/", "min_score": 0.9}).json()
    assert [r["path"] for r in got["results"]] == ["/p/red.jpg"]
    assert got["query"]["filter"] == {"path_prefix": "/p/"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("format", "WMF"), ("min_width", -1), ("max_height", 2**40), ("indexed_after", "soon"), ("path_prefix", "\0"),
     ("indexed_before", "0001-01-01T00:00:00+23:00"), ("indexed_after", "5")],
)  # fmt: skip
def test_a_filter_that_does_not_fit_is_refused(client, name, value):
    response = client.get("/api/v1/search", params={"q": "x", name: value})
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [name]
    assert client.post("/api/v1/search", json={"text": "x", "filter": {name: value}}).status_code == 422


def test_a_vector_of_another_encoder_is_a_conflict(world, client):
    world.index(COLOURS)
    body = {"vector": vector_near(world.encoder, "a red thing"), "k": 1}
    assert client.post("/api/v1/search", json=body | {"fingerprint": world.spec.fingerprint}).status_code == 200
    other = with_other_weights(world.spec).fingerprint
    assert client.post("/api/v1/search", json=body | {"fingerprint": other}).status_code == 409
    assert client.post("/api/v1/search", json={"text": "x", "fingerprint": other}).status_code == 422


@pytest.fixture
def pictured(tmp_path, dagster):
    """A world with one real file behind image 1: 600 x 300, to be shown upright (turned a quarter)."""
    world = World(tmp_path / "home", dagster_port=dagster.port)
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (600, 300), (200, 30, 30)).save(path, exif=exif)
    world.index({str(path): "a red thing"})
    with world.ledger.write() as connection:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        connection.execute(images.update().values(sha256=digest))
    yield world, path
    world.close()


def test_a_thumbnail_is_small_upright_and_cached(pictured):
    world, path = pictured
    with serving(world) as client:
        response = client.get("/api/v1/images/1/thumbnail")
        assert (response.status_code, response.headers["content-type"]) == (200, "image/webp")
        with Image.open(io.BytesIO(response.content)) as picture:
            assert (picture.format, picture.size) == ("WEBP", (128, 256))
            assert np.abs(np.asarray(picture.convert("RGB"), int)[60, 60] - (200, 30, 30)).max() < 12
        with Image.open(io.BytesIO(client.get("/api/v1/images/1/thumbnail?size=64").content)) as picture:
            assert picture.size == (32, 64)
        assert "immutable" in response.headers["cache-control"]
        headers = {"If-None-Match": f'"other", W/{response.headers["etag"]}'}
        again = client.get("/api/v1/images/1/thumbnail", headers=headers)
        assert (again.status_code, again.content) == (304, b"")
        path.unlink()
        assert client.get("/api/v1/images/1/thumbnail").content == response.content
        assert client.get("/api/v1/images/1/thumbnail?size=128").status_code == 404
        world.delete(str(path))
        assert client.get("/api/v1/images/1/thumbnail", headers=headers).status_code == 404


def test_a_thumbnail_that_cannot_be_had_is_a_problem(pictured):
    world, path = pictured
    with serving(world) as client:
        path.write_bytes(path.read_bytes()[:400])
        assert client.get("/api/v1/images/1/thumbnail").status_code == 404  # another content than the one indexed
        for url, status in [("1/thumbnail?size=100", 422), ("2/thumbnail", 404), ("0/thumbnail", 422),
                            ("x/thumbnail", 422), (f"{2**63}/thumbnail", 422)]:  # fmt: skip
            response = client.get(f"/api/v1/images/{url}")
            assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")


def test_the_schema_describes_every_route_with_examples_and_problems(client):
    schema = client.get("/openapi.json").json()
    text = client.get("/openapi.json").text
    assert "HTTPValidationError" not in text
    assert "/$defs/" not in text
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schema["components"]["schemas"], name
    for name in ("AddImagesBody", "RemoveImagesBody", "SearchBody", "StatsModel", "SubmittedJobModel"):
        assert schema["components"]["schemas"][name]["examples"], name
