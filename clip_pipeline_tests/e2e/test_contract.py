"""The wire contract over real HTTP against a real stack: every route of it, every field that it names.

The story of `contract` is told once; each test looks at its part of the answers, or asks what changes nothing.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from clip_pipeline_tests.e2e import shapes
from clip_pipeline_tests.e2e.contract import EventListener, Story
from clip_pipeline_tests.e2e.shapes import misfits
from clip_pipeline_tests.e2e.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUTES = {
    ("post", "/api/v1/index/add-images"), ("get", "/api/v1/index/status/{job_id}"), ("get", "/api/v1/index/status"),
    ("get", "/api/v1/index/stats"), ("get", "/health"), ("post", "/api/v1/index/jobs/{job_id}/retry"),
    ("delete", "/api/v1/index/jobs/{job_id}"), ("delete", "/api/v1/index/images"), ("get", "/api/v1/index/images"),
    ("get", "/api/v1/search"), ("post", "/api/v1/search"), ("get", "/api/v1/images/{image_id}/thumbnail"),
    ("get", "/events"),
}  # fmt: skip
TWINS = ("motorcycle_left.jpg", "motorcycle_right.webp", "retina.jpg", "chinese_temple.jpg")
PARTITIONS = """{ assetNodeOrError(assetKey: {path: ["image_embeddings"]}) {
  ... on AssetNode { partitionKeys latestMaterializationByPartition { partition
    metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }"""
RUNS = """query Runs($key: String!) { runsOrError(filter: {tags: [{key: $key, value: "1"}]}) {
  ... on Runs { results { runId jobName status tags { key value } } } } }"""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, photos: Mapping[str, Path]) -> Iterator[Story]:
    base = tmp_path_factory.mktemp("contract")
    (base / "photos").mkdir()
    stack = Stack(base / "home", base / "watched", extra={"CLIP_PIPELINE_ROOTS": str(base / "photos")})
    try:
        stack.start()
        stack.wait_ready()
        told = Story(stack, base / "photos", photos)
        with told.talk.client:
            told.tell()
            yield told
        stack.stop()
    finally:
        stack.kill_everything()


def problem(answer: httpx.Response, status: int) -> Any:
    """The document of an answer that must be a problem of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert misfits(document, shapes.PROBLEM | {"status": status}) == []
    return document


def names(document: Any) -> list[str]:
    assert misfits(document, shapes.SEARCH) == []
    assert [hit["rank"] for hit in document["results"]] == list(range(1, len(document["results"]) + 1))
    scores = [hit["score"] for hit in document["results"]]
    assert scores == sorted(scores, reverse=True)
    return [Path(hit["path"]).name for hit in document["results"]]


def found(story: Story, **body: Any) -> list[str]:
    return names(story.talk.ask("search", "POST", "/api/v1/search", json=body).json())


def where(story: Story, name: str) -> Any:
    document = story.talk.get("/api/v1/index/images", path=str(story.path(name)))
    assert misfits(document, shapes.WHEREABOUTS) == []
    return document


def counts(document: Any) -> tuple[int, int, int]:
    assert misfits(document, shapes.SUBMITTED) == []
    return document["images_count"], document["new_images_count"], document["already_indexed_count"]


def test_the_schema_lists_every_route_of_the_contract(story: Story):
    described = story.talk.client.get("/openapi.json").json()["paths"]
    assert {(method, path) for path, methods in described.items() for method in methods} >= ROUTES


def test_health_names_its_parts(story: Story):
    answer = story.talk.ask("health", "GET", "/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["parts"].keys() >= {"database", "index", "orchestrator"}


def test_every_answer_carries_a_request_id_the_client_s_own_where_it_sent_one(story: Story):
    ids = {name: answer.headers["X-Request-ID"] for name, answer in story.talk.answers.items()}
    assert ids.pop("submitted") == ids.pop("submitted again") == ids.pop("another body", "contract-1") == "contract-1"
    assert len(set(ids.values())) == len(ids)
    assert story.socket.headers["X-Request-ID"]


def test_an_empty_index_answers_with_zeros_and_finds_nothing(story: Story):
    empty = {"total_images": 0, "num_failed": 0, "last_updated": None, "index_size_mb": 0.0}
    assert misfits(story.talk.document("empty stats"), shapes.STATS | empty) == []
    idle = {"total_indexed_images": 0, "active_jobs": 0, "active_job_details": [], "recent_jobs": []}
    assert misfits(story.talk.document("empty status"), idle) == []
    assert story.talk.answers["empty search"].status_code == 200
    assert story.talk.document("empty search")["results"] == []


def test_a_submission_is_accepted_with_its_job_and_its_counts(story: Story):
    assert story.talk.answers["submitted"].status_code == 202
    document = story.talk.document("submitted")
    assert counts(document) == (9, 9, 0)
    assert document["status"] == "queued"


def test_the_same_key_and_body_give_the_same_job_and_another_body_is_a_conflict(story: Story):
    for first, again in (("submitted", "submitted again"), ("twin 2", "twin 2 again")):
        assert story.talk.answers[again].status_code == story.talk.answers[first].status_code == 202
        assert story.talk.document(again) == story.talk.document(first)
    assert story.jobs["submitted"] in problem(story.talk.answers["another body"], 409)["detail"]


def test_refused_paths_are_each_named_and_nothing_of_the_request_is_queued(story: Story):
    refused = problem(story.talk.answers["refused"], 422)["errors"]
    assert [error["field"] for error in refused] == [f"image_paths.{i}" for i in (1, 2, 3)]
    assert [error["path"] for error in refused] == ["relative.jpg", "/etc/passwd", str(story.path("../up.jpg"))]
    submissions = [name for name in story.jobs if "twin 2 again" not in name]
    assert len(story.talk.get("/api/v1/index/status")["recent_jobs"]) == len(submissions)


def test_equal_requests_at_once_index_every_image_once(story: Story):
    documents = [story.talk.document(f"twin {n}") for n in range(3)]
    assert len({document["job_id"] for document in documents}) == 3
    assert sum(document["new_images_count"] for document in documents) == 4
    assert {sum(counts(document)[1:]) for document in documents} == {4}
    for n in range(3):
        final = story.final[f"twin {n}"]
        assert (final["status"], final["progress"]["failed_images"]) == ("completed", 0)
    assert [where(story, name)["state"] for name in TWINS] == ["indexed"] * 4
    assert len({where(story, name)["image_id"] for name in TWINS}) == 4


def test_a_job_goes_from_queued_to_completed_with_exact_counts(story: Story):
    first, last = story.talk.document("first status"), story.final["submitted"]
    assert misfits(first, shapes.STATUS | {"started_at": None, "completed_at": None, "error_message": None}) == []
    assert first["progress"] == {
        "total_images": 9, "processed_images": 0, "failed_images": 0, "percent_complete": 0.0
    }  # fmt: skip
    assert misfits(last, shapes.STATUS | {"status": "completed", "error_message": None}) == []
    assert last["progress"] == {
        "total_images": 9, "processed_images": 9, "failed_images": 2, "percent_complete": 100.0
    }  # fmt: skip
    assert last["created_at"] <= last["started_at"] <= last["completed_at"]
    assert {run["job_name"] for run in last["runs"]} == {"inspect_images", "embed_images", "merge_index"}
    reasons = {Path(failed["path"]).name: failed["reason"] for failed in last["failed"]}
    assert reasons.keys() == {"cut.jpg", "gone.jpg"}
    assert reasons["gone.jpg"].startswith("missing")
    assert reasons["cut.jpg"].startswith("truncated")


def test_a_canceled_job_stays_canceled_and_a_completed_one_cannot_be(story: Story):
    canceled = {"job_id": story.jobs["canceled"], "status": "canceled", "canceled_at": shapes.MOMENT}
    for name in ("canceled", "canceled again"):
        assert story.talk.answers[name].status_code == 200
        assert misfits(story.talk.document(name), canceled) == []
    assert story.talk.get(f"/api/v1/index/status/{story.jobs['canceled']}")["status"] == "canceled"
    assert where(story, "coins.png")["state"] == "deleted"
    assert "coins.png" not in found(story, text="coins", k=100)
    problem(story.talk.answers["cancel completed"], 409)


def test_a_retry_is_a_new_job_of_the_failed_images_alone(story: Story):
    assert story.talk.answers["retried"].status_code == 202
    assert counts(story.talk.document("retried")) == (2, 2, 0)
    assert story.jobs["retried"] != story.jobs["submitted"]
    final = story.final["retried"]
    assert (final["status"], final["progress"]["failed_images"]) == ("completed", 1)
    assert [Path(failed["path"]).name for failed in final["failed"]] == ["cut.jpg"]
    assert where(story, "gone.jpg")["state"] == "indexed"


def test_known_images_are_skipped_and_changed_ones_are_new(story: Story):
    assert story.talk.answers["all known"].status_code == 200
    known = story.talk.document("all known")
    assert (counts(known), known["status"]) == ((2, 0, 2), "completed")
    assert story.talk.get(f"/api/v1/index/status/{known['job_id']}")["status"] == "completed"
    assert story.talk.answers["mixed"].status_code == 202
    assert counts(story.talk.document("mixed")) == (4, 2, 2)
    assert story.final["mixed"]["status"] == "completed"
    assert found(story, text="a cup of coffee", k=1) != ["coffee.png"]
    assert found(story, image_path=str(story.folder / "albums/2025/brick_wall.png"), k=1) == ["brick_wall.png"]


def test_a_removed_image_is_gone_from_searches_at_once(story: Story):
    assert story.talk.document("removed") == {"removed": 1, "not_found": [str(story.path("never.jpg"))]}
    assert "dahlia_flower.webp" not in names(story.talk.document("search after removal"))
    assert where(story, "dahlia_flower.webp")["state"] == "deleted"
    assert story.path("dahlia_flower.webp").is_file()


def test_where_an_image_is_and_why(story: Story):
    cat, copy, cut = (where(story, name) for name in ("cat.jpg", "copy of cat.jpg", "cut.jpg"))
    assert misfits(cat, {"state": "indexed", "reason": None, "batch": "b0000001", "run_id": shapes.UUID}) == []
    assert cat["index_release"] == story.talk.get("/api/v1/index/stats")["index_release"]
    assert (copy["state"], copy["standing_path"]) == ("duplicate", str(story.path("cat.jpg")))
    assert (cut["state"], cut["index_release"]) == ("failed", None)
    assert cut["reason"].startswith("truncated")


def test_the_overall_status_counts_what_is_open_and_lists_what_is_new(story: Story):
    busy, idle = story.talk.document("overall while busy"), story.talk.get("/api/v1/index/status")
    assert misfits(busy, shapes.OVERALL) + misfits(idle, shapes.OVERALL | {"active_jobs": 0}) == []
    open_jobs = {story.jobs[name] for name in ("submitted", "twin 0", "twin 1", "twin 2")}
    assert {job["job_id"] for job in busy["active_job_details"]} == open_jobs
    assert busy["active_jobs"] == 4
    assert {job["job_id"] for job in idle["recent_jobs"]} == set(story.jobs.values())
    # Six photographs, one of them removed; four twins; what came in place of the missing file; the album.
    assert idle["total_indexed_images"] == idle["index_stats"]["total_images"] == 11


def test_stats_say_what_the_index_holds(story: Story):
    stats = story.talk.get("/api/v1/index/stats")
    assert misfits(stats, shapes.STATS | {"embedding_dim": 384, "total_images": 11, "num_failed": 1}) == []
    assert stats["index_size_mb"] > 0
    assert stats["model_name"] == "builtin-conse-efficientnet-lite0-minilm"


def test_a_search_by_words_finds_the_photograph_and_folds_its_copy_into_the_hit(story: Story):
    document = story.talk.get("/api/v1/search", q="a cat", k=3)
    assert names(document)[0] == "cat.jpg"
    assert len(document["results"]) == 3
    first = document["results"][0]
    assert first["duplicates"] == [str(story.path("copy of cat.jpg"))]
    assert (first["width"], first["height"]) == (451, 300)
    assert found(story, text="a rocket launch")[0] == "rocket_launch.jpg"


def test_a_search_by_example_finds_the_like(story: Story):
    assert found(story, image_path=str(story.path("motorcycle_left.jpg")))[:2] == list(TWINS[:2])
    with story.photos["cat"].open("rb") as file:
        uploaded = story.talk.ask("upload", "POST", "/api/v1/search", files={"file": file}, data={"k": "2"}).json()
    assert (names(uploaded)[0], len(uploaded["results"])) == ("cat.jpg", 2)
    assert uploaded["results"][0]["score"] > 0.99


def test_a_vector_is_searched_for_and_refused_where_another_encoder_made_it(story: Story):
    vector = np.random.default_rng(1).standard_normal(384).tolist()
    fingerprint = story.talk.get("/api/v1/index/stats")["fingerprint"]
    assert len(found(story, vector=vector, fingerprint=fingerprint, k=4)) == 4
    body = {"vector": vector, "fingerprint": "0" * 64}
    problem(story.talk.ask("foreign", "POST", "/api/v1/search", json=body), 409)


def test_filters_and_score_floors_leave_out_the_rest(story: Story):
    assert found(story, text="a cat", min_score=1.0) == []
    assert set(found(story, text="a cat", k=100, filter={"format": "WEBP"})) == {"motorcycle_right.webp"}
    albums = {"path_prefix": f"{story.folder}/albums/"}
    assert found(story, text="a cat", k=100, filter=albums) == ["brick_wall.png"]
    began = story.final["mixed"]["created_at"]
    later = names(story.talk.get("/api/v1/search", q="a cat", k=100, indexed_after=began))
    assert set(later) == {"gone.jpg", "coffee.png", "brick_wall.png"}


def test_thumbnails_are_small_webp_images(story: Story):
    (hit,) = story.talk.get("/api/v1/search", q="a cat", k=1)["results"]
    answer = story.talk.ask("thumbnail", "GET", f"/api/v1/images/{hit['image_id']}/thumbnail")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "WEBP"
        assert max(image.size) < 451


def test_unknown_things_are_not_found(story: Story):
    for method, path in (
        ("GET", "/api/v1/index/status/idx_20200101_000000"), ("DELETE", "/api/v1/index/jobs/idx_20200101_000000"),
        ("POST", "/api/v1/index/jobs/idx_20200101_000000/retry"), ("GET", "/api/v1/images/999999/thumbnail"),
        ("GET", "/api/v1/index/images?path=/nowhere.jpg"), ("GET", "/api/v2"),
    ):  # fmt: skip
        problem(story.talk.client.request(method, path), 404)


def test_a_websocket_tells_the_state_at_once_then_changes_and_closes_at_the_end(story: Story):
    heard = story.socket.heard
    assert [fault for document in heard for fault in misfits(document, shapes.STATUS)] == []
    assert (heard[0]["status"], heard[-1]["status"]) == ("queued", "completed")
    assert len(heard) >= 3
    assert heard[-1]["progress"] == story.final["submitted"]["progress"]
    assert story.socket.close_code == 1000


def test_events_tell_every_job_and_a_client_that_comes_again_misses_nothing(story: Story):
    assert story.events.content_type.startswith("text/event-stream")
    heard = story.events.heard
    assert [fault for _, document in heard for fault in misfits(document, shapes.STATUS)] == []
    states = [document["status"] for _, document in heard if document["job_id"] == story.jobs["submitted"]]
    assert (states[0], states[-1]) == ("queued", "completed")
    resumed = EventListener(story.stack.url, until=list(story.jobs.values()), last=heard[0][0])
    resumed.join(timeout=60)
    final = {document["job_id"]: document["status"] for _, document in resumed.heard}
    assert final == dict.fromkeys(story.jobs.values(), "completed") | {story.jobs["canceled"]: "canceled"}


def test_dagster_s_graphql_shows_runs_by_tag_batches_as_partitions_and_their_counts(story: Story):
    runs = story.stack.graphql(RUNS, key=f"clip/job/{story.jobs['submitted']}")["runsOrError"]["results"]
    assert {run["runId"] for run in runs} == {run["run_id"] for run in story.final["submitted"]["runs"]}
    assert {run["status"] for run in runs} == {"SUCCESS"}
    node = story.stack.graphql(PARTITIONS)["assetNodeOrError"]
    images = {
        done["partition"]: {entry["label"]: entry.get("intValue") for entry in done["metadataEntries"]}["images"]
        for done in node["latestMaterializationByPartition"]
    }
    assert set(node["partitionKeys"]) == images.keys()
    assert images["b0000001"] == 6 + len(TWINS)


def test_a_client_of_graphql_alone_follows_the_job_to_its_end(story: Story):
    lines = story.follower_told.splitlines()
    assert story.follower.returncode == 0, lines
    assert lines[-1].endswith("SUCCESS")
    assert [line for line in lines if line.startswith("image_manifest")] == [
        "image_manifest b0000001: images 11, duplicates 1, failed 1"
    ]
    assert "image_embeddings b0000001: images 10, quarantined 1" in lines
    assert re.search(r"^merged_index release: images \d+, added \d+$", story.follower_told, re.MULTILINE)


def test_verify_agrees_with_all_of_it(story: Story):
    verified = story.stack.run("verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert json.loads(verified.stdout)
    assert story.stack.balance().holds
