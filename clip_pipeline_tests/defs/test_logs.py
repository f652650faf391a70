"""What a run logs, in a process of its own as code servers make them."""

import json
import os
import subprocess
import sys

import pytest

CODE = """
import logging, sys
import dagster as dg
import clip_pipeline.definitions
from clip_pipeline.defs.resources import PipelineResource

@dg.op
def work(context, pipeline: PipelineResource):
    context.log.info("from the context")
    logging.getLogger("clip_pipeline.embedding").info("from a module", extra={"images": 3})
    logging.getLogger("dagster.elsewhere").warning("from Dagster's own code")
    if context.run.tags.get("fails"):
        raise ValueError("broken\\nin two lines")

@dg.job
def embed_images():
    work()

logging.info("some of Dagster's storages log through the root, and Python gives it a handler")
tags = {"dagster/partition": "b0000042", "clip/job/idx_2": "1", "clip/job/idx_1": "1"}
resources = {"pipeline": PipelineResource()}
for more in ({}, {"fails": "1"}):
    embed_images.execute_in_process(tags=tags | more, resources=resources, raise_on_error=False)
logging.getLogger("clip_pipeline").info("after the runs")
with dg.build_sensor_context(sensor_name="watcher", repository_name="__repository__") as sensor:
    sensor.log.info("from a %s", "sensor")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Log format -> standard error of a process with two runs, the second of which fails."""

    def lines_of(log_format):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLIP_", "DAGSTER_"))}
        own = {"CLIP_PIPELINE_HOME": str(tmp_path_factory.mktemp("home")), "CLIP_PIPELINE_LOG_FORMAT": log_format}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE], env=kept | own | {"PYTHONPATH": os.getcwd()},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()

    return {log_format: lines_of(log_format) for log_format in ("json", "console")}


@pytest.fixture(scope="module")
def documents(written):
    return [json.loads(line) for line in written["json"]]


def test_every_line_of_a_run_names_it_its_batch_and_its_jobs_whoever_wrote_it(documents):
    *of_runs, after, _ = documents
    runs = {document["run_id"] for document in of_runs}
    assert len(runs) == 2
    assert {(document["batch"], *document["job_ids"]) for document in of_runs} == {("b0000042", "idx_1", "idx_2")}
    assert after["event"] == "after the runs"
    assert not {"run_id", "batch", "job_ids"} & set(after)


def test_lines_come_from_dagster_its_context_and_our_modules_once_each(documents):
    run_id = documents[0]["run_id"]
    first = [document for document in documents if document.get("run_id") == run_id]
    for event, logger in (
        ("from the context", "dagster"), ("from a module", "clip_pipeline.embedding"),
        ("from Dagster's own code", "dagster.elsewhere"),
    ):  # fmt: skip
        (line,) = [document for document in first if document["event"] == event]
        assert line["logger"] == logger
    events = [document["dagster_event"] for document in first if "dagster_event" in document]
    assert (events[0], events[-1]) == ("RUN_START", "RUN_SUCCESS")
    (ours,) = [document for document in first if document["event"] == "from a module"]
    assert ours["images"] == 3


def test_what_a_sensor_says_names_it(documents):
    last = documents[-1]
    assert (last["event"], last["sensor"], last["level"]) == ("from a sensor", "watcher", "info")
    assert "run_id" not in last


def test_a_failure_is_one_line_with_its_trace_as_a_field(documents):
    (failed,) = [document for document in documents if document.get("dagster_event") == "STEP_FAILURE"]
    assert (failed["step"], failed["dagster_job"], failed["level"]) == ("work", "embed_images", "error")
    assert "ValueError: broken\nin two lines" in failed["exception"]


def test_for_people_dagster_writes_as_it_always_does(written):
    assert any("RUN_START" in line and "embed_images" in line for line in written["console"])
    assert not [line for line in written["console"] if line.startswith("{")]
