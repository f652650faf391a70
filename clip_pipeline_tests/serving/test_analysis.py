"""The analysis service over HTTP: images in, predictions out, whatever is sent."""

import io
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.serving.analysis_models import AnalysisResultModel, AnalysisStatusModel, SubmittedAnalysisModel
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.poison import KINDS, write_poison
from clip_pipeline_tests.serving.lane import answer_all, lane
from clip_pipeline_tests.serving.world import World, serving

STATUS_OF = {ReasonCode.NOT_AN_IMAGE: 415, ReasonCode.UNSUPPORTED: 415, ReasonCode.TOO_MANY_BYTES: 413}
PATIENCE_S = 30


def post(client, content, *, name="cat.png", key=None, headers=None, **fields):
    """One upload; fields as in the form, lists repeated."""
    headers = (headers or {}) | ({} if key is None else {"Idempotency-Key": key})
    return client.post("/analyze-image", files={"file": (name, content)}, data=fields, headers=headers)


def submit(client, content, **options):
    response = post(client, content, **options)
    assert response.status_code == 202, response.text
    return response.json()["request_id"]


def kept(world):
    """The names of all files among the uploads, temporary ones too."""
    return sorted(path.name for path in world.store.uploads_dir.rglob("*") if path.is_file())


def noise(side):
    """A PNG that hardly shrinks: about three bytes a pixel."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def total(client):
    return client.get("/stats").json()["total_requests"]


@pytest.fixture
def world(world):
    world.pin()
    return world


def test_a_request_goes_from_submitted_to_a_result_with_every_field_of_the_contract(world, client):
    content = picture("red", side=60)
    response = post(client, content, labels=",".join(COLOUR_LABELS), name="rot.png")
    assert response.status_code == 202
    submitted = SubmittedAnalysisModel.model_validate(response.json())
    assert submitted.status == "submitted"
    assert response.headers["Location"] == f"/status/{submitted.request_id}"
    waiting = client.get(f"/result/{submitted.request_id}")
    assert (waiting.status_code, waiting.json()["status"]) == (202, "submitted")
    assert waiting.json() == client.get(f"/status/{submitted.request_id}").json()

    answer_all(world)
    response = client.get(f"/result/{submitted.request_id}")
    assert response.status_code == 200
    result = AnalysisResultModel.model_validate(response.json())
    assert (result.request_id, result.status, result.filename) == (submitted.request_id, "completed", "rot.png")
    assert result.metadata.model_dump() == {"width": 60, "height": 60, "format": "PNG", "size_bytes": len(content)}
    assert result.predictions[0].label == "something red"
    assert {one.label for one in result.predictions} == set(COLOUR_LABELS)
    assert sum(one.confidence for one in result.predictions) == pytest.approx(1, abs=1e-4)
    assert result.model_name == world.spec.model_name
    assert result.processing_time_ms is not None
    assert result.processing_time_ms > 0
    assert result.completed_at is not None
    assert result.submitted_at.endswith("Z")
    assert result.submitted_at <= result.completed_at
    AnalysisStatusModel.model_validate(client.get(f"/status/{submitted.request_id}").json())


def test_the_statistics_count_every_state(world, client):
    broken = picture("green", side=300)[:120]
    for content in (picture("red"), picture("blue"), broken):
        submit(client, content, labels="cat,dog")
    answer_all(world)
    submit(client, picture("red"), labels="cat")
    document = client.get("/stats").json()
    assert document.pop("mean_processing_time_ms") > 0
    assert document == {
        "total_requests": 4, "submitted": 1, "processing": 0, "completed": 2, "failed": 1, "completion_rate": 0.5,
    }  # fmt: skip


def test_top_k_cuts_after_the_softmax_and_one_beyond_the_labels_means_all(world, client):
    labels = {"labels": ",".join(COLOUR_LABELS)}
    whole, cut, beyond = (
        submit(client, picture("red"), **labels, **more) for more in ({}, {"top_k": "2"}, {"top_k": "9" * 30})
    )
    answer_all(world)
    whole, cut, beyond = (client.get(f"/result/{name}").json()["predictions"] for name in (whole, cut, beyond))
    assert len(whole) == len(COLOUR_LABELS)
    assert cut == whole[:2]
    assert beyond == whole


def test_without_labels_those_of_the_label_set_in_use_or_of_the_one_named_count(world, client):
    client.post("/api/v1/label-sets", json={"name": "colours", "labels": list(COLOUR_LABELS), "templates": ["{}"]})
    default, named = submit(client, picture("blue"), top_k="1"), submit(client, picture("blue"), label_set="colours")
    assert client.get(f"/status/{default}").json()["label_set"] == {"name": "everyday", "version": 1}
    answer_all(world)
    assert client.get(f"/result/{named}").json()["predictions"][0]["label"] == "something blue"
    assert len(client.get(f"/result/{default}").json()["predictions"]) == 1


def test_every_poison_image_is_refused_at_once_or_failed_with_its_reason_and_leaves_nothing_it_should_not(
    world, client, tmp_path
):
    accepted = {}
    for path, reasons in write_poison(tmp_path / "poison", len(KINDS)).items():
        response = post(client, path.read_bytes(), name=path.name, labels="cat,dog")
        if response.status_code == 202:
            accepted[response.json()["request_id"]] = reasons
            continue
        assert response.status_code in {STATUS_OF.get(reason, 422) for reason in reasons}, path.name
        assert response.json()["errors"][0]["detail"].partition(":")[0] in set(reasons), path.name
    assert 0 < len(accepted) < len(KINDS)
    assert len(kept(world)) == total(client) == len(accepted)

    good = submit(client, picture("red"), labels="cat,dog")
    answer_all(world)
    for request_id, reasons in accepted.items():
        response = client.get(f"/result/{request_id}")
        assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
        assert response.json()["reason"].partition(":")[0] in set(reasons)
    assert client.get(f"/result/{good}").status_code == 200


def test_an_upload_beyond_the_limits_is_413_in_bytes_and_422_in_pixels(tmp_path, dagster):
    world = World(tmp_path / "home", dagster_port=dagster.port, max_image_bytes=5_000, max_image_pixels=2_000)
    with serving(world) as client:
        assert post(client, noise(64), labels="cat").status_code == 413
        bomb = post(client, picture("red", side=60), labels="cat")
        assert (bomb.status_code, "too-many-pixels" in bomb.text) == (422, True)
        submit(client, picture("red"), labels="cat")
        assert len(kept(world)) == total(client) == 1
    world.close()


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({}, 422),
        ({"data": {"labels": "cat"}}, 422),
        ({"files": {"labels": (None, "cat")}}, 422),
        ({"files": {"image": ("a.png", picture("red"))}}, 422),
        ({"files": {"file": (None, "text, not a file")}}, 422),
        ({"files": {"file": ("a.png", picture("red"))}, "data": {"colour": "red"}}, 422),
        ({"files": [("file", ("a.png", picture("red"))), ("file", ("b.png", picture("blue")))]}, 400),
        ({"json": {"file": "a.png"}}, 415),
        ({"content": picture("red"), "headers": {"Content-Type": "image/png"}}, 415),
        ({"content": b"no parts", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"content": b"no boundary", "headers": {"Content-Type": "multipart/form-data"}}, 400),
    ],
)  # fmt: skip
def test_a_request_without_one_image_is_told_what_is_missing(world, client, request_of, status):
    response = client.post("/analyze-image", **request_of)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert total(client) == len(kept(world)) == 0


MANY = [f"label {number}" for number in range(5001)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("cat", ["cat"]),
        ("cat, dog ,,", ["cat", "dog"]),
        (["cat", "dog,bird"], ["cat", "dog", "bird"]),
        (["Cat", "cat", "CAT", "dog"], ["Cat", "dog"]),
        ("Katze,猫,кошка,قطة,🐈‍⬛,बिल्ली", ["Katze", "猫", "кошка", "قطة", "🐈‍⬛", "बिल्ली"]),
        (MANY[:5000], MANY[:5000]),
        (",".join(MANY[:5000]), MANY[:5000]),
        (["x" * 200], ["x" * 200]),
    ],
    ids=["one", "comma", "both", "duplicates", "scripts", "5000", "5000 with commas", "long"],
)
def test_labels_of_any_script_up_to_five_thousand_are_scored(world, client, labels, expected):
    request_id = submit(client, picture("red"), labels=labels)
    answer_all(world)
    found = client.get(f"/result/{request_id}").json()["predictions"]
    assert sorted(one["label"] for one in found) == sorted(expected)
    assert sum(one["confidence"] for one in found) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": ""},
        {"labels": " , ,"},
        {"labels": MANY},
        {"labels": ",".join(MANY)},
        {"labels": "x" * 201},
        {"labels": "cat\x07,dog"},
        {"labels": "cat\ndog"},
        {"labels": "\u200d"},
        {"top_k": "0"},
        {"top_k": "-1"},
        {"top_k": "many"},
        {"top_k": "2.5"},
        {"label_set": "nobody"},
        {"label_set": "a\x00b"},
        {"label_set": "everyday", "labels": "cat"},
    ],
    ids=lambda fields: ascii(fields)[:40],
)
def test_labels_and_counts_that_cannot_be_used_are_422_and_name_the_field(world, client, fields):
    response = post(client, picture("red"), **fields)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] in fields
    assert total(client) == len(kept(world)) == 0


@pytest.mark.parametrize("request_id", ["nobody", "0b5a0c3e-5f0f-4c0e-9d55-6a6f3a8f2f10", "a%00b", "%F0%9F%90%88", "."])
def test_an_unknown_request_is_404_wherever_it_is_asked_for(client, request_id):
    for method, path in (("GET", "status"), ("GET", "result"), ("DELETE", "result")):
        response = client.request(method, f"/{path}/{request_id}")
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


def test_the_same_idempotency_key_gives_the_same_request_and_refuses_another(world, client):
    first, again = (submit(client, picture("red"), key="one", labels="cat,dog") for _ in range(2))
    assert first == again
    assert post(client, picture("red"), key="one", labels="cat").status_code == 409
    assert post(client, picture("blue"), key="one", labels="cat,dog").status_code == 409
    assert submit(client, picture("red"), key="two", labels="cat,dog") != first
    assert len(kept(world)) == 1, "the upload of the refused request is gone"
    assert total(client) == 2


def test_a_repetition_after_the_result_is_answered_as_the_first_time(world, client):
    first = submit(client, picture("red"), key="one", labels="cat")
    answer_all(world)
    assert submit(client, picture("red"), key="one", labels="cat") == first
    assert client.get(f"/result/{first}").status_code == 200


def test_the_same_idempotency_key_of_two_api_keys_is_two_requests_and_reading_keys_may_neither_send_nor_delete(world):
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    one, two, reader = (
        {"Authorization": f"Bearer {create_key(world.ledger, scope, scope=scope, expires_at=tomorrow).token}"}
        for scope in (Scope.WRITE, Scope.WRITE, Scope.READ)
    )
    with serving(world) as client:
        first, second = (submit(client, picture("red"), key="same", labels="cat", headers=key) for key in (one, two))
        assert first != second
        started = time.monotonic()
        assert client.get(f"/result/{first}", params={"wait": "1.5"}, headers=reader).status_code == 202
        assert time.monotonic() - started >= 1.5, "a valid key may wait as long as it likes"
        assert client.delete(f"/result/{first}", headers=reader).status_code == 403
        assert post(client, picture("red"), headers=reader).status_code == 403
        assert client.post("/api/v1/label-sets", json={}, headers=reader).status_code == 403
        assert client.delete(f"/result/{first}", headers=two).status_code == 204


def test_deletion_takes_the_result_at_once_and_the_image_with_the_last_request_that_has_it(world, client):
    first, second = submit(client, picture("red"), labels="cat"), submit(client, picture("red"), labels="dog")
    assert len(kept(world)) == 1
    assert client.delete(f"/result/{first}").status_code == 204
    assert client.get(f"/result/{first}").status_code == 404
    assert len(kept(world)) == 1
    answer_all(world)
    assert client.get(f"/result/{second}").status_code == 200
    assert client.delete(f"/result/{second}").status_code == 204
    assert kept(world) == []
    assert client.delete(f"/result/{second}").status_code == 404


def test_waiting_for_a_result_ends_with_it(world, client):
    with lane(world):
        for colour in ("red", "green", "blue"):
            request_id = submit(client, picture(colour), labels=",".join(COLOUR_LABELS))
            response = client.get(f"/result/{request_id}", params={"wait": "20"})
            assert response.status_code == 200
            assert response.json()["predictions"][0]["label"] == f"something {colour}"


def test_waiting_ends_unfinished_after_the_time_given(client):
    request_id = submit(client, picture("red"), labels="cat")
    started = time.monotonic()
    response = client.get(f"/result/{request_id}", params={"wait": "0.3"})
    assert (response.status_code, response.headers["Retry-After"]) == (202, "1")
    assert 0.3 <= time.monotonic() - started < 10
    for wait in ("-1", "31", "nan", "long"):
        assert client.get(f"/result/{request_id}", params={"wait": wait}).status_code == 422


def test_the_history_has_every_request_once_newest_first(world, client):
    ids = [submit(client, picture("red"), labels=f"label {number}") for number in range(7)]
    answer_all(world)
    found, before = [], {}
    while True:
        page = client.get("/api/v1/analyses", params={"limit": "3"} | before).json()
        found += page["analyses"]
        if page["next_before"] is None:
            break
        before = {"before": str(page["next_before"])}
    assert [one["request_id"] for one in found] == ids[::-1]
    assert found[0]["predictions"] == [{"label": "label 6", "confidence": 1.0}]


def test_an_upload_that_is_broken_off_leaves_nothing_and_the_next_is_taken(world, client):
    content = noise(700)
    head = (
        "POST /analyze-image HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(content) + 500}\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    )
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(head.encode() + content[: len(content) // 2])
    submit(client, picture("red"), labels="cat")
    assert len(kept(world)) == total(client) == 1


def test_uploads_from_many_threads_are_all_answered_each_once(world, client):
    with ThreadPoolExecutor(32) as threads, lane(world):
        ids = list(threads.map(lambda n: submit(client, picture("red"), labels=f"label {n}"), range(150)))
        found = list(threads.map(lambda name: client.get(f"/result/{name}", params={"wait": "20"}).json(), ids))
    assert [one["predictions"][0]["label"] for one in found] == [f"label {n}" for n in range(150)]
    assert client.get("/stats").json()["completed"] == 150


@pytest.fixture
def small_disk(tmp_path):
    """A disk of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_507_nothing_is_kept_and_the_service_goes_on_once_there_is_room(small_disk, tmp_path, dagster):
    world = World(small_disk / "home", dagster_port=dagster.port, ledger_url=f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with serving(world) as client:
        response = post(client, noise(1000), labels="cat")
        assert (response.status_code, response.json()["title"]) == (507, "Insufficient Storage")
        assert "disk is full" in response.json()["detail"]
        assert total(client) == len(kept(world)) == 0
        submit(client, picture("red"), labels="cat")
        assert len(kept(world)) == 1
    world.close()


def test_a_full_disk_under_the_ledger_is_507_too(small_disk, tmp_path, dagster):
    world = World(tmp_path / "home", dagster_port=dagster.port, ledger_url=f"sqlite:///{small_disk / 'ledger.sqlite3'}")
    with serving(world) as client:
        submit(client, picture("blue"), labels="cat")
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break
        statuses = {post(client, picture("red"), labels=MANY[:5000]).status_code for _ in range(5)}
        assert statuses == {507}
        filler.unlink()
        assert total(client) == len(kept(world)) == 1
        submit(client, picture("red"), labels="cat")
    world.close()
