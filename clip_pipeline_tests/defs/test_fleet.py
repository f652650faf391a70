"""The run launcher: the private names of Dagster it stands on, and its verdicts on runs."""

import inspect

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, RunLauncher, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import GetCurrentRunsResult

from clip_pipeline.defs.fleet import FleetRunLauncher


def a_run(**tags: str) -> dg.DagsterRun:
    return dg.DagsterRun(job_name="embed_images", run_id="11111111-1111-1111-1111-111111111111", tags=tags)


def test_the_private_names_it_uses_are_still_there():
    assert "run" in inspect.signature(RunLauncher.check_run_worker_health).parameters
    assert isinstance(inspect.getattr_static(RunLauncher, "supports_check_run_worker_health"), property)
    assert hasattr(DagsterGrpcClient, "get_current_runs")
    assert hasattr(GetCurrentRunsResult, "current_runs")
    assert CheckRunHealthResult(WorkerStatus.RUNNING).status is WorkerStatus.RUNNING
    assert issubclass(FleetRunLauncher, DefaultRunLauncher)


def test_dagster_loads_it_from_its_configuration(tmp_path):
    config = {"run_launcher": {"module": "clip_pipeline.defs.fleet", "class": "FleetRunLauncher",
                               "config": {"grace_seconds": 3}}}  # fmt: skip
    with dg.instance_for_test(overrides=config, temp_dir=str(tmp_path)) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, FleetRunLauncher)
        assert launcher.supports_check_run_worker_health


def test_a_run_whose_server_is_silent_is_lost_only_after_the_grace_time():
    silent = a_run(**{GRPC_INFO_TAG: '{"host": "127.0.0.1", "port": 1}'})
    assert FleetRunLauncher(grace_seconds=60).check_run_worker_health(silent).status is WorkerStatus.RUNNING
    lost = FleetRunLauncher(grace_seconds=0).check_run_worker_health(silent)
    assert lost.status is WorkerStatus.FAILED
    assert "does not answer" in (lost.msg or "")


def test_a_run_without_a_server_is_lost():
    verdict = FleetRunLauncher(grace_seconds=0).check_run_worker_health(a_run())
    assert verdict.status is WorkerStatus.FAILED
