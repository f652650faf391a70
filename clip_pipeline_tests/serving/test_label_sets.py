"""Label sets over HTTP, and the labels of the collection: counted, searched by, shown with each hit."""

import pytest

from clip_pipeline.serving.analysis_models import CollectionLabelsModel, LabelSetModel, LabelSetsModel
from clip_pipeline.serving.api_models import SearchModel
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS
from clip_pipeline_tests.serving.lane import label_images
from clip_pipeline_tests.serving.world import shades

SETS = "/api/v1/label-sets"
PHOTOS = {"/photos/red.jpg": "a red thing", "/photos/blue.jpg": "a blue thing", "/old/blue too.jpg": "the blue one"}


def create(client, name="colours", labels=COLOUR_LABELS, **more):
    return client.post(SETS, json={"name": name, "labels": list(labels), "templates": ["{}"]} | more)


def use_colours(world, client):
    create(client)
    assert client.post(f"{SETS}/colours/use").status_code == 200
    label_images(world)


def found(client, **params):
    response = client.get("/api/v1/search", params={"q": "a red thing", "k": "10"} | params)
    assert response.status_code == 200, response.text
    return sorted(hit["path"] for hit in response.json()["results"])


def test_a_label_set_gets_a_next_version_only_when_it_changes(client):
    first = create(client)
    assert first.status_code == 201
    document = LabelSetModel.model_validate(first.json())
    assert (document.name, document.version, document.labels) == ("colours", 1, list(COLOUR_LABELS))
    assert create(client).json()["version"] == 1
    assert create(client, labels=["red", "blue"]).json()["version"] == 2
    assert client.get(f"{SETS}/colours").json()["labels"] == ["red", "blue"]
    assert client.get(f"{SETS}/colours", params={"version": 1}).json()["labels"] == list(COLOUR_LABELS)
    listed = LabelSetsModel.model_validate(client.get(SETS).json()).label_sets
    assert [(one.name, one.version, one.in_use) for one in listed] == [
        ("colours", 2, False), ("colours", 1, False), ("everyday", 1, True),
    ]  # fmt: skip


def test_the_label_set_in_use_is_the_one_chosen_last(client):
    create(client)
    create(client, labels=["red"])
    assert client.post(f"{SETS}/colours/use", json={"version": 1}).json()["version"] == 1
    assert [(s["name"], s["version"]) for s in client.get(SETS).json()["label_sets"] if s["in_use"]] == [("colours", 1)]
    assert client.post(f"{SETS}/colours/use", json={}).json()["version"] == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"name": "x"}, 422),
        ({"name": "x", "labels": []}, 422),
        ({"name": "x y", "labels": ["cat"]}, 422),
        ({"name": "x", "labels": ["cat\0"]}, 422),
        ({"name": "x", "labels": ["cat"], "templates": ["no slot"]}, 422),
        ({"name": "x", "labels": ["cat"], "templates": []}, 422),
        ({"name": "x", "labels": [f"{n}" for n in range(5001)]}, 422),
        ({"name": "x", "labels": ["cat"], "colour": 1}, 422),
    ],
)
def test_a_label_set_that_cannot_be_used_is_422(client, body, status):
    assert client.post(SETS, json=body).status_code == status
    assert client.get(SETS).json()["label_sets"][0]["name"] == "everyday"


def test_a_label_set_that_is_not_there_is_404(client):
    for path in ("nobody", "a%00b", "everyday?version=7"):
        assert client.get(f"{SETS}/{path}").status_code == 404
    assert client.post(f"{SETS}/nobody/use").status_code == 404
    assert client.post(f"{SETS}/everyday/use", json={"version": 7}).status_code == 404
    assert client.post(f"{SETS}/everyday/use", json={"version": 0}).status_code == 422
    assert client.post(f"{SETS}/everyday/use", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


def test_before_images_are_labelled_counts_are_empty_and_the_filter_says_what_to_do(world, client):
    world.index(PHOTOS)
    document = CollectionLabelsModel.model_validate(client.get("/api/v1/labels").json())
    assert (document.label_set.name, document.labelled_images, document.labels) == ("everyday", 0, [])
    response = client.get("/api/v1/search", params={"q": "red", "label": "cat"})
    assert (response.status_code, "materialize image_labels" in response.json()["detail"]) == (409, True)
    (hit, *_) = client.get("/api/v1/search", params={"q": "red"}).json()["results"]
    assert hit["labels"] == []


def test_counts_filter_and_hits_follow_the_label_set_in_use(world, client):
    world.index(PHOTOS)
    use_colours(world, client)
    document = CollectionLabelsModel.model_validate(client.get("/api/v1/labels").json())
    assert (document.label_set.name, document.labelled_images, document.index_release) == ("colours", 3, "0000001")
    assert [(one.label, one.images) for one in document.labels] == [("something blue", 2), ("something red", 1)]

    sure = {"label_min_confidence": "0.5"}
    assert found(client, label="something blue", **sure) == ["/old/blue too.jpg", "/photos/blue.jpg"]
    assert found(client, label="SOMETHING Blue", path_prefix="/old/", **sure) == ["/old/blue too.jpg"]
    assert found(client, label="something red", **sure) == ["/photos/red.jpg"]
    response = client.post(
        "/api/v1/search", json={"text": "red", "filter": {"label": "something red", "label_min_confidence": 0.5}}
    )
    (hit,) = SearchModel.model_validate(response.json()).results
    assert hit.labels[0].label == "something red"
    assert len(hit.labels) == 3
    assert response.json()["query"]["filter"] == {"label": "something red", "label_min_confidence": 0.5}

    create(client, name="other", labels=["something green", "nothing"])
    client.post(f"{SETS}/other/use")
    assert client.get("/api/v1/search", params={"q": "red", "label": "nothing"}).status_code == 409
    label_images(world)
    assert client.get("/api/v1/labels").json()["labelled_images"] == 3
    assert client.get("/api/v1/search", params={"q": "red", "label": "something red"}).status_code == 422


@pytest.mark.parametrize(
    "params", [{"label": "cat"}, {"label": ""}, {"label": "x" * 201}, {"label": "a", "label_min_confidence": "1.5"}]
)
def test_a_label_that_cannot_be_looked_for_is_422(world, client, params):
    world.index(PHOTOS)
    use_colours(world, client)
    response = client.get("/api/v1/search", params={"q": "red"} | params)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] in params


def test_what_was_deleted_since_it_was_labelled_is_not_found_by_its_label(world, client):
    world.index(PHOTOS | shades(5))
    use_colours(world, client)
    world.delete("/photos/blue.jpg")
    assert found(client, label="something blue", label_min_confidence="0.9") == ["/old/blue too.jpg"]


def test_labels_that_cannot_be_read_do_not_keep_a_search_from_its_answer(world, client):
    world.index(PHOTOS)
    use_colours(world, client)
    for seal in (world.store.root / "labels").rglob("seal.json"):
        seal.write_text("{}")
    assert found(client) == sorted(PHOTOS)
    assert client.get("/api/v1/labels").status_code == 503
