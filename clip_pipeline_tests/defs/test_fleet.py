"""The run launcher: the private names of Dagster it stands on, where runs start, and its verdicts on them."""

import inspect
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.errors import DagsterLaunchFailedError, DagsterUserCodeUnreachableError
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._core.test_utils import create_run_for_test
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CancelExecutionRequest, GetCurrentRunsResult

from clip_pipeline.core.errors import StackError
from clip_pipeline.core.fleet import Worker
from clip_pipeline.defs import fleet
from clip_pipeline.defs.fleet import WORKER_TAG, FleetRunLauncher
from clip_pipeline.defs.fleet_places import Places
from clip_pipeline.defs.fleet_slots import fit_pool, fleet_slots
from clip_pipeline.defs.fleet_workers import WorkerClient, runs_on
from clip_pipeline_tests.defs.origins import origin_of

RUN_ID = "11111111-1111-1111-1111-111111111111"


def a_run(**tags: str) -> dg.DagsterRun:
    return dg.DagsterRun(job_name="embed_images", run_id=RUN_ID, tags=tags)


@contextmanager
def an_instance(folder: Path, *, fleet: str | None = None) -> Iterator[dg.DagsterInstance]:
    """A real instance with the launcher in it; `fleet`: the text of its fleet file."""
    config: dict[str, object] = {"grace_seconds": 3}
    if fleet is not None:
        config["fleet_file"] = str(folder / "fleet.yaml")
        (folder / "fleet.yaml").write_text(fleet)
    overrides = {"run_launcher": {"module": "clip_pipeline.defs.fleet", "class": "FleetRunLauncher", "config": config}}
    (folder / "dagster").mkdir(exist_ok=True)
    with dg.instance_for_test(overrides=overrides, temp_dir=str(folder / "dagster")) as instance:
        yield instance


@contextmanager
def silent_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word, as a frozen one does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield server.getsockname()[1]


def launch(instance: dg.DagsterInstance, location: str = "gpu") -> dg.DagsterRun:
    """Ask the launcher to start a run that the queue has just let out."""
    starting = dg.DagsterRunStatus.STARTING
    run = create_run_for_test(instance, "embed_images", status=starting, remote_job_origin=origin_of(location), tags={})
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    return run


def messages(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    return [entry.message for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)]


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def wait_for_status(instance: dg.DagsterInstance, run_id: str, status: dg.DagsterRunStatus) -> None:
    deadline = time.monotonic() + 20
    while status_of(instance, run_id) is not status:
        assert time.monotonic() < deadline, status_of(instance, run_id)
        time.sleep(0.05)


def test_the_private_names_it_uses_are_still_there():
    assert "run" in inspect.signature(RunLauncher.check_run_worker_health).parameters
    assert isinstance(inspect.getattr_static(RunLauncher, "supports_check_run_worker_health"), property)
    assert CheckRunHealthResult(WorkerStatus.RUNNING).status is WorkerStatus.RUNNING
    assert {"dagster_run", "workspace"} <= set(LaunchRunContext._fields)
    assert list(inspect.signature(DefaultRunLauncher.launch_run_from_grpc_client).parameters) == [
        "instance", "run", "grpc_client",
    ]  # fmt: skip
    assert {"_get_grpc_client_for_termination", "terminate", "dispose"} <= set(dir(DefaultRunLauncher))
    assert hasattr(DefaultRunLauncher(), "_run_ids")
    assert issubclass(FleetRunLauncher, DefaultRunLauncher)
    assert DagsterLaunchFailedError("x").serializable_error_info is None


def test_every_call_of_the_client_goes_through_the_one_that_has_the_time_limit():
    names = list(inspect.signature(DagsterGrpcClient._query).parameters)
    assert names[:4] == ["self", "method", "request_type", "timeout"]
    for call in (DagsterGrpcClient.get_current_runs, DagsterGrpcClient.start_run, DagsterGrpcClient.cancel_execution):
        assert "self._query(" in inspect.getsource(call)
    assert hasattr(GetCurrentRunsResult, "current_runs")


def test_dagster_loads_it_from_its_configuration(tmp_path: Path):
    with an_instance(tmp_path) as instance:
        launcher = instance.run_launcher
        assert isinstance(launcher, FleetRunLauncher)
        assert launcher.supports_check_run_worker_health
        assert fleet_slots(instance) is None


def test_the_setting_names_the_fleet_file_where_the_configuration_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "fleet.yaml").write_text("gpu: [{host: a, port: 1}, {host: b, port: 1, slots: 2}]")
    monkeypatch.setenv("CLIP_PIPELINE_FLEET", str(tmp_path / "fleet.yaml"))
    assert FleetRunLauncher().slots_of("gpu") == 3
    assert FleetRunLauncher().slots_of("control") is None


def test_the_pool_has_as_many_slots_as_the_fleet_also_after_an_edit(tmp_path: Path):
    with an_instance(tmp_path, fleet="gpu: [{host: a, port: 1}]") as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 7)
        for text, limit in (("gpu: [{host: a, port: 1}]", 1), ("gpu: [{host: a, port: 1, slots: 12}]", 12)):
            (tmp_path / "fleet.yaml").write_text(text)
            fit_pool(instance, "gpu")
            assert {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()} == {"gpu": limit}


def test_another_launcher_is_not_even_made_to_learn_that_it_has_no_fleet(tmp_path: Path):
    """That of Kubernetes wants a cluster, which the code server that asks need not reach."""
    absent = {"module": "no_such_module", "class": "K8sRunLauncher"}
    with dg.instance_for_test(overrides={"run_launcher": absent}, temp_dir=str(tmp_path)) as instance:
        assert fleet_slots(instance) is None
        assert fit_pool(instance, "gpu") == 1


def test_without_a_fleet_the_limit_that_a_person_set_stays(tmp_path: Path):
    with an_instance(tmp_path) as instance:
        instance.event_log_storage.set_concurrency_slots("gpu", 7)
        fit_pool(instance, "gpu")
        assert instance.event_log_storage.get_pool_limits()[0].limit == 7


def test_a_silent_server_keeps_nobody_for_long():
    with silent_server() as port:
        client = WorkerClient(host="127.0.0.1", port=port, timeout_s=1)
        began = time.monotonic()
        with pytest.raises(DagsterUserCodeUnreachableError):
            client.current_runs()
        with pytest.raises(DagsterUserCodeUnreachableError):
            client.cancel_execution(CancelExecutionRequest(run_id=RUN_ID))
        assert time.monotonic() - began < 20  # Dagster alone would wait 60 s for each


def test_why_a_worker_is_silent_is_said_in_one_word():
    with silent_server() as port:
        assert runs_on(Worker("127.0.0.1", port)) == "does not answer (DEADLINE_EXCEEDED)"
    assert runs_on(Worker("127.0.0.1", 1)) == "does not answer (UNAVAILABLE)"


def test_a_run_that_finds_no_worker_goes_back_to_the_queue_with_the_reason(tmp_path: Path):
    with an_instance(tmp_path, fleet="gpu: [{host: 127.0.0.1, port: 1}]") as instance:
        run = launch(instance)
        assert messages(instance, run.run_id) == [
            "Back to the queue: no worker is free for embed_images: 127.0.0.1:1 does not answer (UNAVAILABLE)."
        ]
        wait_for_status(instance, run.run_id, dg.DagsterRunStatus.QUEUED)
        stored = instance.get_run_by_id(run.run_id)
        assert stored is not None
        assert WORKER_TAG not in stored.tags


def test_a_run_that_waits_is_not_told_of_again_and_again(tmp_path: Path):
    with an_instance(tmp_path, fleet="gpu: []") as instance:
        run = launch(instance)
        for _ in range(3):
            wait_for_status(instance, run.run_id, dg.DagsterRunStatus.QUEUED)
            event = dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name)
            instance.report_dagster_event(event, run_id=run.run_id)
            instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
            instance.run_launcher.dispose()  # puts it back at once
        assert messages(instance, run.run_id) == [
            "Back to the queue: no worker is free for embed_images: the fleet file names none."
        ]


def test_while_the_fleet_file_was_never_in_order_no_run_starts_anywhere(tmp_path: Path):
    with an_instance(tmp_path, fleet="gpu: [{host: a}]") as instance:
        run = launch(instance, "control")
        assert "port must be a whole number" in messages(instance, run.run_id)[0]
        assert status_of(instance, run.run_id) is dg.DagsterRunStatus.STARTING
        instance.run_launcher.dispose()
        assert status_of(instance, run.run_id) is dg.DagsterRunStatus.QUEUED


def test_a_location_that_the_file_does_not_name_starts_its_runs_as_without_a_fleet(tmp_path: Path):
    with (
        an_instance(tmp_path, fleet="gpu: []") as instance,
        pytest.raises(dg.DagsterInvariantViolationError, match="workspace"),
    ):
        launch(instance, "control")


def test_a_run_that_waits_for_a_worker_is_canceled_at_once(tmp_path: Path):
    with an_instance(tmp_path, fleet="gpu: []") as instance:
        run = launch(instance)
        assert instance.run_launcher.terminate(run.run_id)
        assert status_of(instance, run.run_id) is dg.DagsterRunStatus.CANCELED
        instance.run_launcher.dispose()
        assert status_of(instance, run.run_id) is dg.DagsterRunStatus.CANCELED


def test_ending_a_run_of_a_frozen_worker_takes_seconds_and_says_what_is_wrong(tmp_path: Path):
    with an_instance(tmp_path) as instance, silent_server() as port:
        tags = {GRPC_INFO_TAG: json.dumps({"host": "127.0.0.1", "port": port})}
        run = create_run_for_test(instance, "embed_images", status=dg.DagsterRunStatus.STARTED, tags=tags)
        began = time.monotonic()
        assert not instance.run_launcher.terminate(run.run_id)
        assert time.monotonic() - began < 20  # Dagster alone would wait 60 s; the machine may be busy
        assert status_of(instance, run.run_id) is dg.DagsterRunStatus.CANCELING
        assert "cannot be told to end the run" in messages(instance, run.run_id)[-1]


def test_a_run_whose_start_was_not_confirmed_is_failed_and_not_started_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its worker may have begun it all the same; its retry is another run."""
    monkeypatch.setattr(fleet, "START_TIMEOUT_S", 1)
    monkeypatch.setattr(fleet, "Places", lambda _ask: Places(lambda _worker: frozenset()))
    with silent_server() as one, silent_server() as other:
        workers = f"gpu: [{{host: 127.0.0.1, port: {one}}}, {{host: 127.0.0.1, port: {other}}}]"
        with an_instance(tmp_path, fleet=workers) as instance, pytest.raises(StackError, match=f":{one} fell silent"):
            launch(instance)


def test_a_run_that_ended_has_nothing_to_terminate(tmp_path: Path):
    with an_instance(tmp_path) as instance:
        run = create_run_for_test(instance, "embed_images", status=dg.DagsterRunStatus.SUCCESS)
        assert not instance.run_launcher.terminate(run.run_id)
        assert status_of(instance, run.run_id) is dg.DagsterRunStatus.SUCCESS


def test_a_run_whose_server_is_silent_is_lost_only_after_the_grace_time():
    silent = a_run(**{GRPC_INFO_TAG: '{"host": "127.0.0.1", "port": 1}'})
    assert FleetRunLauncher(grace_seconds=60).check_run_worker_health(silent).status is WorkerStatus.RUNNING
    lost = FleetRunLauncher(grace_seconds=0).check_run_worker_health(silent)
    assert lost.status is WorkerStatus.FAILED
    assert "does not answer" in (lost.msg or "")


def test_a_run_without_a_server_is_lost():
    verdict = FleetRunLauncher(grace_seconds=0).check_run_worker_health(a_run())
    assert verdict.status is WorkerStatus.FAILED
