"""The manifests for Kubernetes: against its schemas, and against what they name of each other and of this project."""

import os
import shlex
import stat
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from clip_pipeline.cli.main import app
from clip_pipeline.settings import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FOLDER = DEPLOY / "kubernetes"
VERSIONS = ("1.29", "1.34")
NO_MANIFESTS = {"values.yaml", "kustomization.yaml"}
LEFT_TO_THE_READER = {"secrets.example.yaml", "kafka.yaml"}
MADE_BY_THE_CHART = {("ConfigMap", "dagster-instance")}


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name not in NO_MANIFESTS)
MANIFESTS = [document for path in FILES for document in documents(path)]
NAMES = [f"{document['kind']}-{document['metadata']['name']}" for document in MANIFESTS]


def of_kind(*kinds):
    return [document for document in MANIFESTS if document["kind"] in kinds]


def named(kind):
    return {document["metadata"]["name"]: document for document in of_kind(kind)}


def pod_of(document):
    return document["spec"]["template"]["spec"]


PODS = of_kind("Deployment", "Job")
CONTAINERS = [
    (document, container)
    for document in PODS
    for container in (*pod_of(document).get("initContainers", []), *pod_of(document)["containers"])
]
for_each_container = pytest.mark.parametrize(
    ("document", "container"), CONTAINERS, ids=[f"{d['metadata']['name']}-{c['name']}" for d, c in CONTAINERS]
)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", MANIFESTS, ids=NAMES)
def test_every_manifest_is_what_the_api_of_kubernetes_takes(document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_the_api_does_not_know_is_found():
    """Guards the guard: a schema that takes anything proves nothing."""
    (document,) = [one for one in of_kind("Deployment") if one["metadata"]["name"] == "clip-pipeline-api"]
    wrong = document | {"spec": document["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_kustomization_has_every_manifest_but_those_left_to_the_reader():
    (kustomization,) = documents(FOLDER / "kustomization.yaml")
    listed = set(kustomization["resources"])
    assert listed == {path.name for path in FILES} - LEFT_TO_THE_READER
    assert {kustomization["namespace"]} == {one["metadata"]["namespace"] for one in of_kind("Secret")}
    assert {image["name"] for image in kustomization["images"]} <= {image_of(container) for _, container in CONTAINERS}


@for_each_container
def test_no_container_may_do_more_than_it_has_to(document, container):
    pod, own = pod_of(document), container["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert "memory" in container["resources"]["limits"]
    assert not any("nvidia.com/gpu" in kind for kind in container["resources"].values())


@for_each_container
def test_what_a_container_names_is_there(document, container):
    volumes = {volume["name"]: volume for volume in pod_of(document).get("volumes", [])}
    assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes)
    there = {(kind, name) for kind in ("ConfigMap", "Secret", "PersistentVolumeClaim") for name in named(kind)}
    asked = {("PersistentVolumeClaim", v["persistentVolumeClaim"]["claimName"]) for v in volumes.values()
             if "persistentVolumeClaim" in v}  # fmt: skip
    asked |= {("ConfigMap", v["configMap"]["name"]) for v in volumes.values() if "configMap" in v}
    for source in container.get("envFrom", []):
        asked |= {("ConfigMap", source["configMapRef"]["name"])} if "configMapRef" in source else set()
        asked |= {("Secret", source["secretRef"]["name"])} if "secretRef" in source else set()
    for variable in container.get("env", []):
        if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
            assert reference["key"] in named("Secret")[reference["name"]]["stringData"]
    assert asked <= there | MADE_BY_THE_CHART


def test_every_setting_is_one_of_this_project():
    variables = {f"CLIP_PIPELINE_{name.upper()}" for name in Settings.model_fields}
    given = {name for one in of_kind("ConfigMap") for name in one["data"]}
    given |= {name for one in of_kind("Secret") for name in one["stringData"]}
    given |= {variable["name"] for _, container in CONTAINERS for variable in container.get("env", [])}
    assert {name for name in given if name.startswith("CLIP_PIPELINE_")} <= variables
    assert "CLIP_PIPELINE_LEDGER_URL" in given


def test_every_command_of_this_project_is_one_that_it_has():
    commands = {tuple(container["args"]) for _, container in CONTAINERS}
    own = {command[1:] for command in commands if command[0] == "clip-pipeline"}
    assert own == {("api",), ("init",), ("kafka",)}
    for command in own:
        assert CliRunner().invoke(app, [*command, "--help"]).exit_code == 0, command


def test_probes_ask_the_health_route_from_within_with_what_the_image_has():
    (container,) = pod_of(named("Deployment")["clip-pipeline-api"])["containers"]
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    commands = {shlex.join(probe["exec"]["command"]) for probe in probes}
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    address = f"http://127.0.0.1:{environment['CLIP_PIPELINE_PORT']}/health"
    assert commands == {f"clip-pipeline-probe {address}"}
    assert "deploy/probe.py /usr/local/bin/clip-pipeline-probe" in (DEPLOY / "Dockerfile").read_text()
    assert container["ports"] == [{"name": "http", "containerPort": int(environment["CLIP_PIPELINE_PORT"])}]


def test_the_user_of_the_pods_is_that_of_the_image():
    users = {pod_of(document)["securityContext"]["runAsUser"] for document in PODS}
    assert users == {10001}
    assert "USER 10001:10001" in (DEPLOY / "Dockerfile").read_text()


def test_services_budgets_and_scalers_find_their_pods():
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in named("Deployment").items()}
    for name, one in named("Deployment").items():
        assert one["spec"]["selector"]["matchLabels"] == labels[name]
    for kind in ("Service", "PodDisruptionBudget"):
        for name, one in named(kind).items():
            selector = one["spec"]["selector"]
            assert selector.get("matchLabels", selector) == labels[name]
    for one in of_kind("HorizontalPodAutoscaler"):
        target = named("Deployment")[one["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"]
    ports = {name: {port["name"] for port in one["spec"]["ports"]} for name, one in named("Service").items()}
    for one in of_kind("Ingress"):
        for rule in one["spec"]["rules"]:
            backend = rule["http"]["paths"][0]["backend"]["service"]
            assert backend["port"]["name"] in ports[backend["name"]]


def test_nothing_here_is_a_secret_or_runs_by_itself():
    for one in of_kind("Secret"):
        assert all("CHANGE-ME" in value for value in one["stringData"].values())
    assert not any(os.stat(path).st_mode & stat.S_IXUSR for path in FOLDER.iterdir())


def image_of(container):
    return container["image"].partition(":")[0]
