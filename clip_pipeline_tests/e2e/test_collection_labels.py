"""1,000 photographs labelled on a real stack from their stored embeddings, and labelled anew when the labels change."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from clip_pipeline_tests.e2e.contract import STATUS, Conversation
from clip_pipeline_tests.e2e.stack import Stack

LABELS = ("a dog", "people", "a beach", "a mountain", "a street", "a bicycle", "snow", "a football match")
MORE = (*LABELS, "a horse", "a swimming pool")
PHOTOS, PATIENCE_S = 1_000, 600.0
RUNS = """{ runsOrError(filter: {pipelineName: "label_images"}) { ... on Runs { results { status } } } }"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_1000_photographs_are_labelled_and_a_changed_set_scores_them_anew_in_one_run_without_their_files(
    stack: Stack, shared_data: Path, tmp_path: Path
):
    folder = tmp_path / "photographs"
    shutil.copytree(shared_data / "flickr8k_1000" / "images", folder)
    stack.extra = {"CLIP_PIPELINE_ROOTS": str(folder)}
    stack.start()
    stack.wait_ready()
    talk = Conversation(stack.url)
    with talk.client:
        use(talk, LABELS, name="create", version=1)
        job = talk.add("indexed", *sorted(folder.iterdir()))["job_id"]
        stack.wait(lambda: talk.get(f"{STATUS}/{job}")["status"] == "completed", "all are indexed", PATIENCE_S)
        assert talk.get(f"{STATUS}/{job}")["progress"]["failed_images"] == 0
        first = labelled(stack, talk, version=1)
        check_the_filter(talk)

        shutil.rmtree(folder)
        before = ended_label_runs(stack)
        use(talk, MORE, name="change", version=2)
        second = labelled(stack, talk, version=2)
        assert ended_label_runs(stack) == [*before, "SUCCESS"]
        assert second["index_release"] == first["index_release"]
        check_the_filter(talk)


def use(talk: Conversation, labels: tuple[str, ...], *, name: str, version: int) -> None:
    body = {"name": "scenes", "labels": list(labels)}
    assert talk.ask(name, "POST", "/api/v1/label-sets", json=body).status_code == 201
    talk.ask(f"use {name}", "POST", "/api/v1/label-sets/scenes/use", json={"version": version})


def labelled(stack: Stack, talk: Conversation, *, version: int) -> Any:
    """What the service says of the collection once all of it is labelled by this version."""

    def is_done() -> bool:
        document = talk.get("/api/v1/labels")
        return (document["label_set"]["version"], document["labelled_images"]) == (version, PHOTOS)

    stack.wait(is_done, f"all are labelled by version {version}", PATIENCE_S)
    document = talk.get("/api/v1/labels")
    counts = {one["label"]: one["images"] for one in document["labels"]}
    assert sum(counts.values()) == PHOTOS
    assert counts["a dog"] > 50, "Flickr8k is full of dogs"
    return document


def check_the_filter(talk: Conversation) -> None:
    """Searches with a label give the images that have it, and no other."""
    for label in ("a dog", "snow"):
        hits = talk.get("/api/v1/search", q="something", k=1_000)["results"]
        wanted = {hit["image_id"] for hit in hits if confidence(hit, label) >= 0.3}
        found = talk.get("/api/v1/search", q="something", k=1_000, label=label, label_min_confidence=0.3)["results"]
        assert {hit["image_id"] for hit in found} == wanted
        assert wanted


def confidence(hit: Any, label: str) -> float:
    return next((one["confidence"] for one in hit["labels"] if one["label"] == label), 0.0)


def ended_label_runs(stack: Stack) -> list[str]:
    """How each run that labelled images ended, oldest first, once none is at work."""
    stack.wait(lambda: "STARTED" not in label_runs(stack), "no images are being labelled", PATIENCE_S)
    return label_runs(stack)


def label_runs(stack: Stack) -> list[str]:
    return [run["status"] for run in stack.graphql(RUNS)["runsOrError"]["results"]][::-1]
