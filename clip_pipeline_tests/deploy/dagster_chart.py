"""What Dagster's Helm chart 1.13 makes of values.yaml, as far as it is used here: its keys, dagster.yaml, environments.

Written down from the chart's templates and schema (helm/dagster in dagster-io/dagster), as there is no Helm where the
tests run. A key that is not in `KEYS` is a mistake, or one to enter here after looking it up.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

ANY = "anything"
_NAMED = [{"name": ANY}]
_IMAGE = {"repository": ANY, "tag": ANY, "pullPolicy": ANY}
_DEPLOYMENT = {
    "name": ANY, "image": _IMAGE, "dagsterApiGrpcArgs": ANY, "port": ANY,
    "includeConfigInLaunchedRuns": {"enabled": ANY}, "env": ANY, "envConfigMaps": _NAMED, "envSecrets": _NAMED,
    "volumes": ANY, "volumeMounts": ANY, "podSecurityContext": ANY, "securityContext": ANY, "resources": ANY,
    "readinessProbe": {"enabled": ANY, "periodSeconds": ANY, "timeoutSeconds": ANY, "failureThreshold": ANY},
}  # fmt: skip
_LAUNCHER = {
    "imagePullPolicy": ANY, "loadInclusterConfig": ANY, "envConfigMaps": _NAMED, "envSecrets": _NAMED, "volumes": ANY,
    "volumeMounts": ANY, "securityContext": ANY, "failPodOnRunFailure": ANY,
    "runK8sConfig": {"podSpecConfig": ANY, "jobSpecConfig": ANY},
}  # fmt: skip
_QUEUE = {"dequeueIntervalSeconds": ANY, "dequeueUseThreads": ANY, "dequeueNumWorkers": ANY}
_MONITORING = dict.fromkeys(
    ("enabled", "startTimeoutSeconds", "cancelTimeoutSeconds", "maxResumeRunAttempts", "pollIntervalSeconds",
     "freeSlotsAfterRunEndSeconds"), ANY,
)  # fmt: skip
_THREADS = {"useThreads": ANY, "numWorkers": ANY, "numSubmitWorkers": ANY}
KEYS: Mapping[str, Any] = {
    "global": {"postgresqlSecretName": ANY},
    "generatePostgresqlPasswordSecret": ANY,
    "postgresql": {"enabled": ANY, "postgresqlHost": ANY, "postgresqlUsername": ANY, "postgresqlDatabase": ANY,
                   "service": {"port": ANY}},
    "dagster-user-deployments": {"enabled": ANY, "enableSubchart": ANY, "deployments": [_DEPLOYMENT]},
    "runLauncher": {"type": ANY, "config": {"k8sRunLauncher": _LAUNCHER}},
    "concurrency": {"enabled": ANY, "pools": {"granularity": ANY}, "runs": {"maxConcurrentRuns": ANY}},
    "dagsterDaemon": {
        "runCoordinator": {"enabled": ANY, "type": ANY, "config": {"queuedRunCoordinator": _QUEUE}},
        "runMonitoring": _MONITORING, "runRetries": {"enabled": ANY, "maxRetries": ANY}, "sensors": _THREADS,
        "resources": ANY,
    },
    "dagsterWebserver": {"enableReadOnly": ANY, "resources": ANY},
    "retention": {"enabled": ANY, "sensor": {"purgeAfterDays": ANY}, "schedule": {"purgeAfterDays": ANY}},
    "telemetry": {"enabled": ANY},
}  # fmt: skip


def unknown_keys(values: Any, known: Any, at: str = "") -> Iterator[str]:
    """The keys of values that the chart would pass over or refuse, as paths."""
    if isinstance(known, Mapping):
        for name, value in values.items():
            if name not in known:
                yield f"{at}.{name}"
            else:
                yield from unknown_keys(value, known[name], f"{at}.{name}")
    elif isinstance(known, list):
        for number, value in enumerate(values):
            yield from unknown_keys(value, known[0], f"{at}[{number}]")


def deployments(values: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The code servers by the name of their location."""
    return {one["name"]: one for one in values["dagster-user-deployments"]["deployments"]}


def image_name(deployment: Mapping[str, Any]) -> str:
    """The image of a code server, which is that of its runs."""
    return f"{deployment['image']['repository']}:{deployment['image']['tag']}"


def code_server_environment(deployment: Mapping[str, Any]) -> dict[str, str]:
    """What the chart gives a code server that hands nothing of its own configuration to runs."""
    assert deployment["includeConfigInLaunchedRuns"] == {"enabled": False}
    return {"DAGSTER_CURRENT_IMAGE": image_name(deployment), **deployment["env"]}


def dagster_yaml(values: Mapping[str, Any]) -> dict[str, Any]:
    """The instance that the release `dagster` gives the daemon, the webserver and every run, without its storage."""
    daemon, kept = values["dagsterDaemon"], values["retention"]
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": _launcher(values)},
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": daemon["runCoordinator"]["type"],
            "config": _snake(daemon["runCoordinator"]["config"]["queuedRunCoordinator"]),
        },
        "concurrency": _snake({name: value for name, value in values["concurrency"].items() if name != "enabled"}),
        "run_monitoring": _snake(daemon["runMonitoring"]),
        "run_retries": _snake(daemon["runRetries"]),
        "sensors": _snake(daemon["sensors"]),
        "retention": {kind: {"purge_after_days": kept[kind]["purgeAfterDays"]} for kind in ("sensor", "schedule")},
        "telemetry": values["telemetry"],
    }


def _launcher(values: Mapping[str, Any]) -> dict[str, Any]:
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    inner = given["runK8sConfig"]
    return {
        "load_incluster_config": given["loadInclusterConfig"],
        "job_namespace": "clip-pipeline",
        "image_pull_policy": given["imagePullPolicy"],
        "service_account_name": "dagster",
        "dagster_home": "/opt/dagster/dagster_home",
        "instance_config_map": "dagster-instance",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "env_config_maps": [one["name"] for one in given["envConfigMaps"]],
        "env_secrets": [one["name"] for one in given["envSecrets"]],
        "volume_mounts": given["volumeMounts"],
        "volumes": given["volumes"],
        "fail_pod_on_run_failure": given["failPodOnRunFailure"],
        "security_context": given["securityContext"],
        "run_k8s_config": {"pod_spec_config": inner["podSpecConfig"], "job_spec_config": inner["jobSpecConfig"]},
    }


def _snake(value: Any) -> Any:
    """The same with `camelCase` names as `snake_case`."""
    if not isinstance(value, Mapping):
        return value
    return {"".join(f"_{c.lower()}" if c.isupper() else c for c in name): _snake(v) for name, v in value.items()}


def as_text(instance: Mapping[str, Any]) -> str:
    """The content of dagster.yaml."""
    return yaml.safe_dump(dict(instance))
