"""Runs on Kubernetes: the instance that values.yaml makes, and the Job that its real launcher asks an API server for.

The API server is a small one of this test, spoken to over HTTP by the real client; the code servers are real ones.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster._cli.job import execute_launch_command
from dagster._cli.workspace.cli_target import RepositoryOpts
from dagster_k8s import K8sRunLauncher
from dagster_shared.cli import WorkspaceOpts

from clip_pipeline.defs.jobs import ANALYZE_JOB, EMBED_LABELS_JOB, LABEL_IMAGES_JOB
from clip_pipeline_tests.deploy.dagster_chart import (
    KEYS,
    as_text,
    code_server_environment,
    dagster_yaml,
    deployments,
    image_name,
    unknown_keys,
)

VALUES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "values.yaml"
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def values():
    return yaml.safe_load(VALUES.read_text())


def test_every_value_is_one_that_the_chart_has(values):
    assert list(unknown_keys(values, KEYS)) == []
    assert list(unknown_keys({"dagsterDaemon": {"runMonitorng": {}}}, KEYS)) == [".dagsterDaemon.runMonitorng"]


def test_the_locations_are_those_of_this_project(values):
    modules = {name: one["dagsterApiGrpcArgs"][-1] for name, one in deployments(values).items()}
    assert modules == {"control": "clip_pipeline.definitions", "gpu": "clip_pipeline.gpu_definitions"}
    assert all(GPU not in json.dumps(one["resources"]) for one in deployments(values).values())


def test_the_instance_of_the_values_is_one_that_dagster_loads(values, tmp_path):
    (tmp_path / "dagster.yaml").write_text(as_text(dagster_yaml(values)))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.run_coordinator.__class__.__name__ == "QueuedRunCoordinator"
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 50
        assert instance.run_monitoring_enabled
        assert instance.run_retries_max_retries == 3
        launcher = instance.get_ref().run_launcher_data
        assert launcher is not None
        assert launcher.class_name == "K8sRunLauncher"


class ApiServer:
    """An API server that takes Jobs and remembers them."""

    def __init__(self):
        self.asked = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def kubeconfig(self):
        """What a client needs to know of it."""
        address = f"http://127.0.0.1:{self._server.server_address[1]}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "current-context": "here",
        }

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self):
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked.append((self.path, json.loads(body)))
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format, *args):
                pass

        return Handler


@pytest.fixture
def api_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    server = ApiServer()
    yield server
    server.close()


@contextlib.contextmanager
def code_server(deployment, home):
    """The code server of a deployment, with its arguments and environment; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-h", "127.0.0.1", "-p", str(port)]
    environment = os.environ | code_server_environment(deployment) | {"CLIP_PIPELINE_HOME": str(home)}
    with (home / f"{deployment['name']}.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *deployment["dagsterApiGrpcArgs"]], env=environment, stdout=log, stderr=log, cwd=home
        )
    try:
        deadline = time.monotonic() + 100
        while not accepts(port):
            assert server.poll() is None, (home / f"{deployment['name']}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(timeout=30)


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def instance(values, api_server, tmp_path):
    """The instance of the values, but that its runs do not queue, and that its launcher is outside of the cluster."""
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(api_server.kubeconfig()))
    made = dagster_yaml(values)
    made["run_launcher"]["config"] |= {
        "load_incluster_config": False, "kubeconfig_file": str(tmp_path / "kubeconfig"),
    }  # fmt: skip
    made["run_coordinator"] = {"module": "dagster.core.run_coordinator", "class": "DefaultRunCoordinator"}
    del made["concurrency"]
    (tmp_path / "dagster.yaml").write_text(as_text(made))
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        assert isinstance(opened.run_launcher, K8sRunLauncher)
        yield opened


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_the_location_gpu_asks_for_one_gpu_and_a_run_of_control_for_none(
    values, instance, api_server, tmp_path
):
    servers = deployments(values)
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(code_server(one, tmp_path)) for name, one in servers.items()}
        workspace = tmp_path / "workspace.yaml"
        entries = [
            {"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": name}} for name, port in ports.items()
        ]
        workspace.write_text(yaml.safe_dump({"load_from": entries}))
        launched = {
            job: execute_launch_command(
                instance=instance,
                workspace_opts=WorkspaceOpts(workspace=(str(workspace),)),
                repository_opts=RepositoryOpts(location=location),
                job_name=job,
            ).run_id
            for location, job in (("gpu", ANALYZE_JOB), ("gpu", EMBED_LABELS_JOB), ("control", LABEL_IMAGES_JOB))
        }
    assert [path for path, _ in api_server.asked] == ["/apis/batch/v1/namespaces/clip-pipeline/jobs"] * 3
    jobs = dict(zip(launched, (job for _, job in api_server.asked), strict=True))
    for name, job in jobs.items():
        kubernetes_validate.validate(job, "1.34", strict=True)
        check_pod(job, name, run_id=launched[name], values=values)
    for name in (ANALYZE_JOB, EMBED_LABELS_JOB):
        assert container_of(jobs[name])["resources"]["limits"][GPU] == "1"
        assert pod_of(jobs[name])["tolerations"] == [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
        assert container_of(jobs[name])["image"] == image_name(servers["gpu"])
    assert GPU not in json.dumps(jobs[LABEL_IMAGES_JOB])
    assert container_of(jobs[LABEL_IMAGES_JOB])["image"] == image_name(servers["control"])


def check_pod(job, name, *, run_id, values):
    """What every run has, whatever its location."""
    pod, container = pod_of(job), container_of(job)
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert run_id in json.dumps(job), name
    names = {json.dumps(source.get("configMapRef") or source["secretRef"]) for source in container["envFrom"]}
    assert names == {'{"name": "clip-pipeline"}'}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"/srv/clip-pipeline", "/srv/images", "/tmp", "/opt/dagster/dagster_home"}
    given = deployments(values)["control"]
    assert container["securityContext"] == given["securityContext"]
    assert pod["securityContext"] == given["podSecurityContext"]
    assert pod["serviceAccountName"] == "dagster"
    assert job["spec"]["ttlSecondsAfterFinished"] == 86400


def pod_of(job):
    return job["spec"]["template"]["spec"]


def container_of(job):
    (container,) = pod_of(job)["containers"]
    return container
