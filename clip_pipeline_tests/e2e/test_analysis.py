"""The analysis service over real HTTP against a real stack: every route of the contract, every field that it names,
and the labels of a whole collection.

The story of `analysis_story` is told once; each test looks at its part of the answers, or asks what changes nothing.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from clip_pipeline_tests.e2e import shapes
from clip_pipeline_tests.e2e.analysis_story import INDEXED, LABELS, NAMED, AnalysisStory
from clip_pipeline_tests.e2e.shapes import MOMENT, NUMBER, UUID, misfits
from clip_pipeline_tests.e2e.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUTES = {
    ("post", "/analyze-image"), ("get", "/status/{request_id}"), ("get", "/result/{request_id}"), ("get", "/stats"),
    ("delete", "/result/{request_id}"), ("post", "/api/v1/label-sets"), ("get", "/api/v1/labels"),
}  # fmt: skip
ROUNDING = 1e-5
"""Confidences have six decimals, and a dozen of them are summed."""
STATUS = {"request_id": UUID, "status": re.compile("submitted|processing|completed|failed")}
RESULT = {
    "request_id": UUID,
    "status": "completed",
    "filename": str,
    "model_name": re.compile("builtin.+"),
    "predictions": [{"label": str, "confidence": NUMBER}],
    "metadata": {"width": int, "height": int, "format": str, "size_bytes": int},
    "processing_time_ms": NUMBER,
    "submitted_at": MOMENT,
    "completed_at": MOMENT,
}
STATS = {
    "total_requests": int, "submitted": int, "processing": int, "completed": int, "failed": int,
    "completion_rate": NUMBER, "mean_processing_time_ms": (*NUMBER, None),
}  # fmt: skip
TAKEN_IN = {"cat", "coffee", "rocket_launch", "motorcycle_left", "one label", "doubled", "cut short"}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, photos: Mapping[str, Path]) -> Iterator[AnalysisStory]:
    base = tmp_path_factory.mktemp("analysis")
    (base / "photos").mkdir()
    stack = Stack(base / "home", base / "watched", extra={"CLIP_PIPELINE_ROOTS": str(base / "photos")})
    try:
        stack.start()
        stack.wait_ready()
        told = AnalysisStory(stack, photos, base / "photos")
        with told.talk.client:
            told.tell()
            yield told
        stack.stop()
    finally:
        stack.kill_everything()


def problem(story: AnalysisStory, name: str, status: int) -> Any:
    """The document of an answer that must be a problem of this status."""
    answer = story.talk.answers[name]
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert misfits(answer.json(), shapes.PROBLEM | {"status": status}) == []
    return answer.json()


def predictions(story: AnalysisStory, name: str) -> dict[str, float]:
    """Label to confidence of a result, which must be whole; best first."""
    document = story.results[name]
    assert misfits(document, RESULT) == []
    confidences = [prediction["confidence"] for prediction in document["predictions"]]
    assert confidences == sorted(confidences, reverse=True)
    return {prediction["label"]: prediction["confidence"] for prediction in document["predictions"]}


def found(story: AnalysisStory, **wanted: Any) -> set[str]:
    """Names, without suffix, of the indexed images that a filtered search finds."""
    body = {"text": "a photograph", "k": 100, "filter": wanted}
    document = story.talk.ask("search by label", "POST", "/api/v1/search", json=body).json()
    assert misfits(document, shapes.SEARCH) == []
    return {Path(hit["path"]).stem for hit in document["results"]}


def test_the_schema_lists_every_route(story: AnalysisStory):
    described = story.talk.client.get("/openapi.json").json()["paths"]
    assert {(method, path) for path, methods in described.items() for method in methods} >= ROUTES


def test_an_upload_is_answered_with_a_request_id_before_it_is_analyzed(story: AnalysisStory):
    for name in TAKEN_IN:
        answer = story.talk.answers[name]
        assert answer.status_code == 202
        assert misfits(answer.json(), STATUS | {"status": "submitted"}) == []
    assert len({story.ids[name] for name in TAKEN_IN}) == len(TAKEN_IN)


def test_the_same_key_and_upload_give_the_same_request_and_another_upload_is_a_conflict(story: AnalysisStory):
    assert story.ids["cat again"] == story.ids["cat"]
    problem(story, "another under its key", 409)


def test_a_result_that_is_not_there_yet_is_answered_with_the_status(story: AnalysisStory):
    early = story.talk.answers["early result"]
    assert early.status_code == 202
    assert misfits(early.json(), STATUS) == []
    assert early.json()["status"] in ("submitted", "processing")


def test_a_result_has_every_field_of_the_contract_about_the_file_that_was_sent(story: AnalysisStory):
    document, sent = story.results["cat"], story.photos["cat"]
    assert misfits(document, RESULT) == []
    assert (document["request_id"], document["filename"]) == (story.ids["cat"], "cat.jpg")
    assert document["metadata"] == {
        "width": 451, "height": 300, "format": "JPEG", "size_bytes": sent.stat().st_size
    }  # fmt: skip
    assert document["processing_time_ms"] > 0
    assert document["submitted_at"] <= document["completed_at"]


@pytest.mark.parametrize("photo", NAMED)
def test_the_right_label_comes_first(story: AnalysisStory, photo: str):
    assert next(iter(predictions(story, photo))) == NAMED[photo]


@pytest.mark.parametrize("name", ["cat", "rocket_launch", "motorcycle_left", "one label", "doubled"])
def test_confidences_sum_to_one_over_all_labels(story: AnalysisStory, name: str):
    assert sum(predictions(story, name).values()) == pytest.approx(1.0, abs=ROUNDING)


def test_each_label_is_named_once_and_in_its_own_script(story: AnalysisStory):
    assert set(predictions(story, "cat")) == set(predictions(story, "motorcycle_left")) == set(LABELS)
    assert set(predictions(story, "doubled")) == {"cat", "猫", "кошка"}
    assert predictions(story, "one label") == {"cat": 1.0}


def test_top_k_cuts_the_list_after_the_confidences_are_made(story: AnalysisStory):
    best = predictions(story, "coffee")
    assert len(best) == 3
    assert 0.5 < sum(best.values()) < 1.0
    assert len(predictions(story, "rocket_launch")) == len(LABELS)


def test_a_file_that_cannot_be_decoded_fails_with_a_reason(story: AnalysisStory):
    failed = problem(story, "result of cut short", 422)
    status = story.talk.document("status of cut short")
    assert misfits(status, STATUS | {"status": "failed"}) == []
    assert "truncated" in failed["detail"]
    assert "truncated" in status["error_message"]


def test_statistics_count_every_request_by_state(story: AnalysisStory):
    assert misfits(story.talk.document("empty stats"), STATS | {"total_requests": 0, "completed": 0}) == []
    busy = story.talk.document("busy stats")
    assert busy["submitted"] + busy["processing"] + busy["completed"] + busy["failed"] == len(TAKEN_IN)
    last = story.talk.document("stats")
    assert misfits(last, STATS | {"submitted": 0, "processing": 0, "completed": len(TAKEN_IN) - 1, "failed": 1}) == []
    assert last["completion_rate"] == pytest.approx(1 - 1 / len(TAKEN_IN), abs=1e-4)
    assert last["mean_processing_time_ms"] > 0


def test_the_history_has_every_request_newest_first(story: AnalysisStory):
    listed = [one["request_id"] for one in story.talk.document("history")["analyses"]]
    taken_in = list(dict.fromkeys(story.ids[name] for name in story.results if name != "indexed before"))
    assert listed == taken_in[::-1]


def test_the_socket_of_a_request_tells_its_states_in_order_and_closes_after_the_last(story: AnalysisStory):
    states = [message["status"] for message in story.socket.heard]
    assert states == sorted(set(states), key=["submitted", "processing", "completed"].index)
    assert states[-1] == "completed"
    assert {message["request_id"] for message in story.socket.heard} == {story.ids["cat"]}
    assert story.socket.close_code == 1000


def test_the_event_stream_tells_of_the_request_too(story: AnalysisStory):
    assert story.events.content_type.startswith("text/event-stream")
    states = [document["status"] for _, document in story.events.heard if document["request_id"] == story.ids["cat"]]
    assert states[-1] == "completed"


def test_a_deleted_request_is_unknown_afterwards(story: AnalysisStory):
    assert story.talk.answers["delete"].status_code == 204
    problem(story, "delete again", 404)
    assert story.talk.client.get(f"/status/{story.ids['deleted']}").status_code == 404


@pytest.mark.parametrize(
    ("name", "statuses", "word"),
    [
        ("unknown status", {404}, "request"), ("unknown result", {404}, "request"), ("text", {415}, "image"),
        ("noise", {415}, "image"), ("top_k 0", {422}, "top_k"), ("no label", {422}, "label"),
        ("control character", {422}, "control"), ("too many labels", {422}, "5000"), ("no file", {422}, "file"),
        ("wrong field", {422}, "file"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_in_is_refused_with_the_reason(
    story: AnalysisStory, name: str, statuses: set[int], word: str
):
    answer = story.talk.answers[name]
    assert answer.status_code in statuses, answer.text
    document = problem(story, name, answer.status_code)
    assert word in f"{document['detail']} {document.get('errors')}"


def test_an_image_known_to_the_index_is_not_embedded_again(story: AnalysisStory):
    assert story.results["indexed before"]["reused_vector"] is True
    assert story.results["cat"]["reused_vector"] is False
    assert next(iter(predictions(story, "indexed before"))) == "flower"


def test_the_collection_is_labelled_and_counted(story: AnalysisStory):
    counts = {one["label"]: one["images"] for one in story.collection[1]["labels"]}
    assert sum(counts.values()) == len(INDEXED)
    assert all(counts[label] >= 1 for label in NAMED.values())


def test_a_changed_label_set_scores_the_collection_anew_without_its_files(story: AnalysisStory):
    assert not story.folder.exists()
    counts = {one["label"]: one["images"] for one in story.collection[2]["labels"]}
    assert sum(counts.values()) == len(INDEXED)
    assert counts["dahlia"] == 1
    assert story.collection[2]["index_release"] == story.collection[1]["index_release"]


@pytest.mark.parametrize("photo", NAMED)
def test_a_search_is_narrowed_to_the_images_with_a_label(story: AnalysisStory, photo: str):
    assert found(story, label=NAMED[photo], label_min_confidence=0.5) == {photo}


def test_a_search_for_a_label_that_no_image_has_finds_nothing(story: AnalysisStory):
    assert found(story, label="piano", label_min_confidence=0.9) == set()
