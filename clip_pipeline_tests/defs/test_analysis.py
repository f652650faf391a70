"""The analysis lane through real runs: uploads to predictions, labels of the whole collection, retention."""

import json
import os
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from clip_pipeline.core.encoder import EmbeddingMatrix, PixelBatch
from clip_pipeline.core.image_labels import open_image_labels
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.defs.retention import expire_analyses
from clip_pipeline.defs.sensors.analysis_requests import PastLaneRun, analysis_requests, pause_after, runs_wanted
from clip_pipeline.defs.sensors.labels import label_sets, unlabelled_images
from clip_pipeline.ledger.analysis_lookup import analysis_of, analysis_stats
from clip_pipeline.ledger.label_sets import create_label_set, use_label_set
from clip_pipeline.ledger.states import AnalysisState
from clip_pipeline_tests.defs.pipeline import Pipeline
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture, upload
from clip_pipeline_tests.fakes import HashEncoder


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIP_PIPELINE_ANALYSIS_IDLE_S", "0.1")
    monkeypatch.setenv("CLIP_PIPELINE_DECODE_WORKERS", "1")


def analyze(pipeline: Pipeline) -> None:
    done = pipeline.tick_and_run(analysis_requests, "analyze_images")
    assert [run.success for run in done] == [True]


def predictions(pipeline: Pipeline, request_id: str) -> list[dict[str, object]]:
    found = analysis_of(pipeline.ledger, request_id)
    assert found.state is AnalysisState.COMPLETED, found.reason
    return json.loads(str(found.result_json))["predictions"]


def test_uploads_get_predictions_that_sum_to_one_best_first(pipeline: Pipeline):
    ids = {c: upload(pipeline.ledger, pipeline.settings.store, picture(c)) for c in ("red", "green", "blue")}
    analyze(pipeline)
    for colour, request_id in ids.items():
        found = predictions(pipeline, request_id)
        assert found[0]["label"] == f"something {colour}"
        confidences = [float(str(p["confidence"])) for p in found]
        assert sum(confidences) == pytest.approx(1, abs=1e-4)
        assert len(found) == len(COLOUR_LABELS)
        assert confidences == sorted(confidences, reverse=True)


def test_top_k_cuts_after_the_softmax(pipeline: Pipeline):
    whole = upload(pipeline.ledger, pipeline.settings.store, picture("red"))
    cut = upload(pipeline.ledger, pipeline.settings.store, picture("red"), top_k=2)
    analyze(pipeline)
    assert predictions(pipeline, cut) == predictions(pipeline, whole)[:2]


def test_one_damaged_upload_fails_alone_with_its_reason(pipeline: Pipeline):
    good = upload(pipeline.ledger, pipeline.settings.store, picture("red"))
    bad = upload(pipeline.ledger, pipeline.settings.store, picture("green")[:60])
    analyze(pipeline)
    assert predictions(pipeline, good)[0]["label"] == "something red"
    failed = analysis_of(pipeline.ledger, bad)
    assert failed.state is AnalysisState.FAILED
    assert str(failed.reason).partition(":")[0] in {ReasonCode.TRUNCATED, ReasonCode.CORRUPT, ReasonCode.NOT_AN_IMAGE}


def test_an_image_seen_before_is_not_encoded_again(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    upload(pipeline.ledger, pipeline.settings.store, picture("red"))
    analyze(pipeline)
    monkeypatch.setattr(HashEncoder, "encode_images", refuse)
    again = upload(pipeline.ledger, pipeline.settings.store, picture("red"), labels=("cat", "dog"))
    analyze(pipeline)
    assert len(predictions(pipeline, again)) == 2
    assert pipeline.metadata("analysis_results")["reused_vectors"] == 1


def test_an_indexed_image_is_not_encoded_again(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    (pipeline.folder / "red.png").write_bytes(picture("red"))
    (pipeline.folder / "blue.png").write_bytes(picture("blue"))
    settle_old_files(pipeline)
    # The texts of colours need the picture's vector, so the labels are of another kind here.
    monkeypatch.setattr(HashEncoder, "encode_images", refuse)
    request_id = upload(pipeline.ledger, pipeline.settings.store, picture("red"), labels=("cat", "dog"))
    analyze(pipeline)
    assert len(predictions(pipeline, request_id)) == 2
    assert pipeline.metadata("analysis_results")["reused_vectors"] == 1


def test_without_labels_the_label_set_in_use_at_submission_counts(pipeline: Pipeline):
    create_label_set(pipeline.ledger, "colours", labels=COLOUR_LABELS, templates=["{}"])
    use_label_set(pipeline.ledger, "colours")
    request_id = upload(pipeline.ledger, pipeline.settings.store, picture("blue"), labels=None)
    create_label_set(pipeline.ledger, "animals", labels=["cat"], templates=["{}"])
    use_label_set(pipeline.ledger, "animals")
    analyze(pipeline)
    assert predictions(pipeline, request_id)[0]["label"] == "something blue"


def test_the_sensor_asks_for_nothing_while_nothing_waits(pipeline: Pipeline):
    assert pipeline.tick(analysis_requests).skip_reason is not None


def test_the_same_queue_asked_about_twice_gives_the_same_run_key(pipeline: Pipeline):
    upload(pipeline.ledger, pipeline.settings.store, picture("red"))
    first, second = pipeline.tick(analysis_requests), pipeline.tick(analysis_requests)
    assert [r.run_key for r in first.run_requests or []] == [r.run_key for r in second.run_requests or []]


@pytest.mark.parametrize(
    ("submitted", "most", "expected"), [(0, 3, 0), (1, 3, 1), (200, 3, 1), (201, 3, 2), (9999, 3, 3)]
)
def test_a_longer_queue_is_worth_more_runs(submitted: int, most: int, expected: int):
    assert runs_wanted(submitted, most=most) == expected


def past(*, failed: bool, started: float, ended: float) -> PastLaneRun:
    return PastLaneRun("run", failed, started, ended)


def test_runs_that_fail_without_any_result_are_followed_more_and_more_slowly():
    failures = [past(failed=True, started=t, ended=t + 1) for t in (300.0, 200.0, 100.0)]
    waits = [pause_after(failures[:n], last_result_at=None, now=301.0) for n in range(4)]
    assert waits == [0.0, 5.0, 10.0, 20.0]
    assert pause_after(failures, last_result_at=None, now=322.0) == 0.0


def test_a_run_that_was_killed_at_work_is_followed_at_once():
    assert pause_after([past(failed=True, started=100.0, ended=110.0)], last_result_at=105.0, now=110.0) == 0.0


def test_every_indexed_image_gets_labels_without_being_read_and_again_when_the_label_set_changes(pipeline: Pipeline):
    for colour in ("red", "green", "blue"):
        (pipeline.folder / f"{colour}.png").write_bytes(picture(colour))
    settle_old_files(pipeline)
    for file in pipeline.folder.iterdir():
        file.unlink()  # scoring must not need them
    create_label_set(pipeline.ledger, "colours", labels=COLOUR_LABELS, templates=["{}"])
    use_label_set(pipeline.ledger, "colours")
    assert label_everything(pipeline) == {"something red": 1, "something green": 1, "something blue": 1}
    create_label_set(pipeline.ledger, "colours", labels=["red", "other"], templates=["{}"])
    use_label_set(pipeline.ledger, "colours")
    assert label_everything(pipeline)["red"] >= 1
    assert pipeline.tick(label_sets).skip_reason is not None
    assert pipeline.tick(unlabelled_images).skip_reason is not None
    assert "data:image/png" in str(pipeline.metadata("image_labels")["chart"])


def test_requests_beyond_their_time_go_with_the_uploads_that_only_they_needed(pipeline: Pipeline):
    store, ledger = pipeline.settings.store, pipeline.ledger
    upload(ledger, store, picture("red"))
    analyze(pipeline)
    waiting_id = upload(ledger, store, picture("blue"))
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert expire_analyses(ledger, store, older_than=tomorrow) == (1, 1)
    assert analysis_stats(ledger).total == 1
    assert [path.read_bytes() for path in (store.root / "uploads").rglob("*") if path.is_file()] == [picture("blue")]
    assert analysis_of(ledger, waiting_id).state is AnalysisState.SUBMITTED


def label_everything(pipeline: Pipeline) -> dict[str, int]:
    """Tick and run both label sensors; the number of images by their best label."""
    assert all(run.success for run in pipeline.tick_and_run(label_sets, "embed_labels"))
    assert [run.success for run in pipeline.tick_and_run(unlabelled_images, "label_images")] == [True]
    store = pipeline.settings.store
    spec = pinned_encoder(store)
    assert spec is not None
    digests = [path.name for path in (store.root / "labels" / spec.key).iterdir() if path.is_dir()]
    newest = max(digests, key=lambda name: (store.root / "labels" / spec.key / name).stat().st_mtime_ns)
    return open_image_labels(store, spec.key, digest=newest).counts()


def settle_old_files(pipeline: Pipeline) -> None:
    """Index what lies in the folder; files that were just written count as still being written."""
    for file in pipeline.folder.iterdir():
        os.utime(file, (1, 1))
    pipeline.settle()


def refuse(encoder: HashEncoder, pixels: PixelBatch) -> EmbeddingMatrix:
    """The black picture, with which a run has its towers loaded, is nobody's."""
    if pixels.any():
        raise AssertionError("an image was encoded")
    return np.zeros((len(pixels), encoder.spec.dim), np.float32)
