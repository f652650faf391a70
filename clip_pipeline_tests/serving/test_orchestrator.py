"""Dagster asked over HTTP: by a stand-in that answers as it does, and by nobody at all."""

import graphql
import pytest
from dagster_graphql.schema import create_schema

from clip_pipeline.core.errors import StackError
from clip_pipeline.serving.orchestrator import Orchestrator, RunInfo, Workspace, local_orchestrator
from clip_pipeline_tests.serving.world import free_port, settings_of


@pytest.fixture
def orchestrator(dagster):
    opened = Orchestrator(f"http://127.0.0.1:{dagster.port}/")
    yield opened
    opened.close()


def test_runs_are_found_by_the_tag_of_their_job(dagster, orchestrator):
    dagster.add_run("idx_1", "r1", "SUCCESS", work="inspect:b0000001", created=1.0, start=2.0, end=3.5)
    dagster.add_run("idx_1", "r2", "STARTED", created=4.0, start=5.0)
    dagster.add_run("idx_2", "r3", "QUEUED")
    assert orchestrator.runs_of_jobs(["idx_1", "idx_3"]) == {
        "idx_1": [
            RunInfo("r2", "STARTED", "embed", "r2", 4.0, 5.0, None),
            RunInfo("r1", "SUCCESS", "embed", "inspect:b0000001", 1.0, 2.0, 3.5),
        ],
        "idx_3": [],
    }
    assert orchestrator.run_url("r2") == f"http://127.0.0.1:{dagster.port}/runs/r2"


def test_a_webserver_elsewhere_is_asked_there_and_linked_to_by_its_public_address(dagster, tmp_path):
    elsewhere, public = f"http://127.0.0.1:{dagster.port}/dagster", "https://images.example.org/dagster/"
    opened = local_orchestrator(settings_of(tmp_path, dagster_url=elsewhere, dagster_public_url=public))
    dagster.add_run("idx_1", "r1", "STARTED")
    assert [run.run_id for run in opened.runs_of_jobs(["idx_1"])["idx_1"]] == ["r1"]
    assert (opened.url, opened.run_url("r1")) == (public[:-1], "https://images.example.org/dagster/runs/r1")
    opened.close()


def test_many_jobs_take_few_requests(dagster, orchestrator):
    job_ids = [f"idx_{i}" for i in range(45)]
    for job_id in job_ids:
        dagster.add_run(job_id, f"run of {job_id}", "STARTED")
    found = orchestrator.runs_of_jobs(job_ids)
    assert {job_id: runs[0].run_id for job_id, runs in found.items()} == {j: f"run of {j}" for j in job_ids}
    assert len(dagster.asked) == 3


def test_the_queries_fit_the_schema_of_the_installed_dagster(dagster, orchestrator):
    orchestrator.runs_of_jobs(["idx_1", "idx_2"])
    orchestrator.daemon_fault()
    orchestrator.pulse()
    orchestrator.workspace(since=1.5)
    schema = create_schema().graphql_schema
    for request in dagster.asked:
        assert graphql.validate(schema, graphql.parse(request["query"])) == []


def test_a_silent_daemon_is_named(dagster, orchestrator):
    assert orchestrator.daemon_fault() is None
    dagster.daemons = {"SENSOR": 0.0, "QUEUED_RUN_COORDINATOR": 600.0}
    assert "QUEUED_RUN_COORDINATOR" in str(orchestrator.daemon_fault())
    assert "SENSOR" not in str(orchestrator.daemon_fault())


def test_the_pulse_has_runs_by_status_and_the_last_sign_of_life_of_each_daemon(dagster, orchestrator):
    dagster.daemons = {"SENSOR": 30.0}
    none = dict.fromkeys(("queued", "starting", "started", "canceling", "success", "failure", "canceled"), 0)
    assert (orchestrator.pulse().runs, orchestrator.pulse().oldest_queued_at) == (none, None)
    for number, status in enumerate(("SUCCESS", "QUEUED", "NOT_STARTED", "QUEUED", "STARTING", "STARTED"), start=1):
        dagster.add_run("idx_1", f"r{number}", status, created=float(number))
    pulse = orchestrator.pulse()
    found = none | {"queued": 3, "starting": 1, "started": 1, "success": 1}
    assert (pulse.runs, pulse.oldest_queued_at) == (found, 2.0)
    assert list(pulse.heartbeats) == ["SENSOR"]


def test_the_workspace_has_each_location_and_the_failed_ticks_of_each_sensor_since_a_moment(dagster, orchestrator):
    dagster.locations = {"control": {"submissions": [1.0, 2.0, 3.0], "watched": []}, "gpu": None}
    assert orchestrator.workspace(since=1.5) == Workspace(
        {"control": True, "gpu": False}, {"submissions": 2, "watched": 0}
    )


def test_nobody_there_is_an_error_with_the_remedy():
    orchestrator = Orchestrator(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StackError, match=r"does not answer at .* start it with `clip-pipeline up`"):
        orchestrator.runs_of_jobs(["idx_1"])
    orchestrator.close()


def test_a_server_error_is_no_empty_list(dagster, orchestrator):
    dagster.status = 500
    with pytest.raises(StackError, match="500"):
        orchestrator.runs_of_jobs(["idx_1"])
