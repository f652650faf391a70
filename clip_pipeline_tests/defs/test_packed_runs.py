"""Runs that several batches share: made by the sensor, worked on batch by batch, and what is left of one that dies."""

import json
import logging
from pathlib import Path
from typing import NoReturn

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from clip_pipeline.core.embeddings import read_seal
from clip_pipeline.core.errors import ConflictError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs import attempts
from clip_pipeline.defs.assets import embeddings
from clip_pipeline.defs.logs import LoggerOfRun
from clip_pipeline.defs.sensors.sealed_manifests import sealed_manifests
from clip_pipeline.defs.sensors.submissions import submissions
from clip_pipeline.defs.work import JOB_TAG_PREFIX, WORK_TAG
from clip_pipeline.ledger.cancellation import cancel_job
from clip_pipeline.ledger.embedding_results import begin_embedding
from clip_pipeline.ledger.planning import batches_to_embed
from clip_pipeline.ledger.registration import Submission, register_files
from clip_pipeline.ledger.scanning import FileFacts
from clip_pipeline_tests.defs.origins import origin_of
from clip_pipeline_tests.defs.pipeline import Pipeline
from clip_pipeline_tests.defs.test_assets import write_images
from clip_pipeline_tests.fakes import HashEncoder

KEY = HashEncoder().spec.key


def sealed_batches(pipeline: Pipeline, count: int, *, priorities: tuple[int, ...] = ()) -> list[str]:
    """So many jobs of two images, each with a batch of its own whose manifest is sealed; returns the ids of the jobs.

    The batches have room for ten times as many, so that all could share a run.
    """
    jobs: list[str] = []
    for number in range(count):
        names = [f"{chr(ord('a') + 2 * number + n)}.png" for n in range(2)]
        write_images(pipeline.folder, *names)
        files = [fact(pipeline.folder / name) for name in names]
        priority = priorities[number] if priorities else 0
        made = register_files(pipeline.ledger, files, submission=Submission("api", priority))
        jobs.append(str(made.job_id))
        pipeline.tick_and_run(submissions, "inspect_images")
    assert len(batches_to_embed(pipeline.ledger, most=100)) == count
    return jobs


def fact(path: Path) -> FileFacts:
    status = path.stat()
    return FileFacts(str(path), status.st_size, status.st_mtime_ns)


def requested(pipeline: Pipeline) -> list[dg.RunRequest]:
    return list(pipeline.tick(sealed_manifests).run_requests or [])


def embedded(pipeline: Pipeline) -> list[str]:
    """The batches with a materialization, in the order in which they were done."""
    records = pipeline.instance.fetch_materializations(embeddings.KEY, limit=100).records
    return [str(record.partition_key) for record in records][::-1]


def keys(*numbers: int) -> list[str]:
    return [str(BatchKey(number)) for number in numbers]


def test_neighbours_share_one_run_that_serves_all_their_jobs(pipeline: Pipeline):
    jobs = sealed_batches(pipeline, 3)
    (request,) = requested(pipeline)
    assert {tag for tag in request.tags if tag.startswith(JOB_TAG_PREFIX)} == {f"{JOB_TAG_PREFIX}{j}" for j in jobs}
    assert pipeline.run("embed_images", request).success
    assert embedded(pipeline) == keys(1, 2, 3)
    assert batches_to_embed(pipeline.ledger, most=100) == []
    assert requested(pipeline) == []


def test_full_batches_share_a_run_once_it_is_known_how_fast_they_are(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    """Each had a run of its own, which on a GPU takes longer to start than to embed a full batch."""
    sealed_batches(pipeline, 3)
    monkeypatch.setenv("CLIP_PIPELINE_BATCH_SIZE", "2")
    first, second = requested(pipeline)
    assert (first.partition_key, second.partition_key) == tuple(keys(1, 2))
    assert pipeline.run("embed_images", first).success
    (together,) = requested(pipeline)
    assert pipeline.run("embed_images", together).success
    assert embedded(pipeline) == keys(1, 2, 3)


def test_what_a_run_of_several_batches_logs_about_one_names_it(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its lines named no batch: the run as a whole has none."""
    sealed_batches(pipeline, 2)
    (request,) = requested(pipeline)
    monkeypatch.setenv("CLIP_PIPELINE_LOG_FORMAT", "json")
    monkeypatch.setattr(logging, "_loggerClass", LoggerOfRun)
    capsys.readouterr()
    assert pipeline.run("embed_images", request).success
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    batches = {(line["dagster_event"], line.get("batch")) for line in lines if "dagster_event" in line}
    about = {"ASSET_OBSERVATION", "ASSET_MATERIALIZATION"}
    assert {found for found in batches if found[0] in about} == {(event, key) for event in about for key in keys(1, 2)}
    assert {found for found in batches if found[0].startswith("RUN_")} == {("RUN_START", None), ("RUN_SUCCESS", None)}


def test_a_batch_that_is_under_way_in_a_shared_run_is_not_requested_again(pipeline: Pipeline):
    sealed_batches(pipeline, 2)
    (request,) = requested(pipeline)
    create_run_for_test(
        pipeline.instance, "embed_images", tags=dict(request.tags), status=dg.DagsterRunStatus.QUEUED,
        remote_job_origin=origin_of("gpu"),
    )  # fmt: skip
    assert requested(pipeline) == []


def test_batches_of_different_priority_have_runs_of_their_own(pipeline: Pipeline):
    sealed_batches(pipeline, 3, priorities=(0, 5, 5))
    names = [request.tags[WORK_TAG].count("embed:") for request in requested(pipeline)]
    assert names == [2, 1]


def test_of_a_run_that_dies_what_is_done_stays_done_and_the_rest_is_tried_batch_by_batch(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attempts, "FIRST_PAUSE_S", 0.0)
    sealed_batches(pipeline, 4)
    work = embeddings.record_embeddings
    done: list[BatchKey] = []

    def die_at_the_third(ledger: object, batch: BatchKey, **result: object) -> None:
        if len(done) == 2:
            raise RuntimeError("the machine is gone")
        done.append(batch)
        work(ledger, batch, **result)  # type: ignore[arg-type]

    monkeypatch.setattr(embeddings, "record_embeddings", die_at_the_third)
    (request,) = requested(pipeline)
    assert not pipeline.run("embed_images", request).success
    monkeypatch.setattr(embeddings, "record_embeddings", work)

    again = requested(pipeline)
    assert [str(request.partition_key) for request in again] == keys(3, 4)
    assert all(pipeline.run("embed_images", request).success for request in again)
    assert embedded(pipeline) == keys(1, 2, 3, 4)
    assert requested(pipeline) == []


def test_a_batch_whose_job_was_canceled_is_left_out_and_the_others_are_embedded(pipeline: Pipeline):
    _, second, _ = sealed_batches(pipeline, 3)
    (request,) = requested(pipeline)
    cancel_job(pipeline.ledger, second)
    assert pipeline.run("embed_images", request).success
    assert embedded(pipeline) == keys(1, 3)
    assert not (pipeline.settings.store.embeddings_dir(KEY, BatchKey(2))).exists()


def test_a_run_that_was_replaced_stops_and_leaves_nothing_behind(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    """Its worker was frozen for longer than the grace time; its retry works on the batch when it wakes up."""
    sealed_batches(pipeline, 1)
    (request,) = requested(pipeline)
    encode = HashEncoder.encode_images

    def freeze(self: HashEncoder, pixels: object) -> object:
        begin_embedding(pipeline.ledger, BatchKey(1), run_id="the-retry")
        return encode(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(HashEncoder, "encode_images", freeze)
    result = pipeline.run("embed_images", request)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert ConflictError.__name__ in str(failure.step_failure_data.error)
    assert embedded(pipeline) == []
    assert not (pipeline.settings.store.embeddings_dir(KEY, BatchKey(1))).exists()
    assert len(batches_to_embed(pipeline.ledger, most=100)) == 1


def test_a_run_that_dagster_has_ended_takes_no_further_batch(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    sealed_batches(pipeline, 2)
    (request,) = requested(pipeline)
    work = embeddings.record_embeddings

    def end_the_run(ledger: object, batch: BatchKey, *, run_id: str, **result: object) -> None:
        work(ledger, batch, run_id=run_id, **result)  # type: ignore[arg-type]
        run = pipeline.instance.get_run_by_id(run_id)
        assert run is not None
        pipeline.instance.report_run_failed(run, "the run's worker is lost")

    monkeypatch.setattr(embeddings, "record_embeddings", end_the_run)
    assert not pipeline.run("embed_images", request).success
    assert read_seal(pipeline.settings.store, KEY, BatchKey(1)).embedded == 2
    assert [str(batch.key) for batch in batches_to_embed(pipeline.ledger, most=100)] == keys(2)


def test_a_retry_leaves_out_what_the_first_try_finished(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch):
    sealed_batches(pipeline, 2)
    (request,) = requested(pipeline)

    def refuse(*_arguments: object, **_result: object) -> NoReturn:
        raise RuntimeError("the machine is gone")

    job = pipeline.definitions().resolve_job_def("embed_images")
    first = pipeline.run("embed_images", request)
    assert first.success
    monkeypatch.setattr(embeddings, "record_embeddings", refuse)
    tags = dict(request.tags) | {
        "dagster/retry_number": "1", "dagster/root_run_id": first.run_id, "dagster/parent_run_id": first.run_id
    }  # fmt: skip
    retry = job.execute_in_process(instance=pipeline.instance, tags=tags, raise_on_error=False)
    assert retry.success
    assert embedded(pipeline) == keys(1, 2)
