"""The run launcher: Dagster's default one, plus the knowledge of whether a run's worker is still alive.

The default launcher has no health check, so a run whose process or host was killed would stay STARTED for ever. Here
run monitoring asks the code server that launched a run whether it still works on it; run retries do the rest.

The only module that imports private names of Dagster. `clip_pipeline_tests/defs/test_fleet.py` pins them.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import GetCurrentRunsResult
from dagster._serdes import ConfigurableClassData, deserialize_value


class FleetRunLauncher(DefaultRunLauncher):
    """Launches runs on the gRPC code server of their location and reports those whose server lost them.

    grace_seconds: how long a server may be silent, or deny a run, before the run counts as lost.
    """

    def __init__(self, grace_seconds: int = 30, inst_data: ConfigurableClassData | None = None) -> None:
        self._grace_seconds = grace_seconds
        self._doubted_since: dict[str, float] = {}
        super().__init__(inst_data)

    @classmethod
    def config_type(cls) -> dict[str, dg.Field]:
        """The `config` block of `run_launcher` in dagster.yaml."""
        return {
            "grace_seconds": dg.Field(
                int, default_value=30, is_required=False, description="silence after which a run counts as lost"
            )
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> "FleetRunLauncher":
        """Called by Dagster when it loads the instance."""
        return cls(grace_seconds=config_value["grace_seconds"], inst_data=inst_data)

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Switches the health check of run monitoring on."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING while the code server that launched the run works on it, or has not been silent for long."""
        doubt = self._doubt(run)
        if doubt is None:
            self._doubted_since.pop(run.run_id, None)
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        since = self._doubted_since.setdefault(run.run_id, time.monotonic())
        if time.monotonic() - since < self._grace_seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"{doubt}; waiting")
        self._doubted_since.pop(run.run_id, None)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"the run's worker is lost: {doubt}")

    @staticmethod
    def _doubt(run: dg.DagsterRun) -> str | None:
        """Why the run may be dead, or None where its server says that it works on it."""
        info = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
        if not info:
            return "no code server was recorded for it"
        client = DagsterGrpcClient(
            host=info.get("host"), port=info.get("port"), socket=info.get("socket"), use_ssl=bool(info.get("use_ssl"))
        )
        try:
            current = deserialize_value(client.get_current_runs(), GetCurrentRunsResult).current_runs
        except Exception as error:  # noqa: BLE001  any failure to answer is the finding here
            return f"its code server does not answer ({type(error).__name__})"
        return None if run.run_id in current else "its code server does not know it (restarted, or its process died)"
