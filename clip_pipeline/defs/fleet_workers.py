"""Talking to code servers: calls that end soon whatever state the other side is in.

Dagster's client waits 60 s for an answer. A worker that is frozen or cut off accepts a connection and says nothing,
and whoever asks it (run queue, run monitoring, a person who ends a run) asks for other workers too.
"""

import json
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DEFAULT_GRPC_TIMEOUT, DagsterGrpcClient
from dagster._grpc.types import GetCurrentRunsResult
from dagster._serdes import deserialize_value

from clip_pipeline.core.fleet import Worker

ASK_TIMEOUT_S = 3
"""To say which runs it works on, or to pass a termination on: a lookup in memory."""

START_TIMEOUT_S = 30
"""To start a run's process and see it report: 3 to 10 s on two busy cores."""


class WorkerClient(DagsterGrpcClient):
    """Dagster's client with an upper limit on every call."""

    def __init__(
        self,
        *,
        host: str | None = "localhost",
        port: int | None = None,
        socket: str | None = None,
        use_ssl: bool = False,
        timeout_s: int = ASK_TIMEOUT_S,
    ) -> None:
        super().__init__(port=port, socket=socket, host=host or "localhost", use_ssl=use_ssl)
        self._timeout_s = timeout_s

    def _query(
        self,
        method: str,
        request_type: Any,
        timeout: int = DEFAULT_GRPC_TIMEOUT,
        custom_timeout_message: str | None = None,
        **fields: Any,
    ) -> Any:
        limit_s = min(timeout, self._timeout_s)
        return super()._query(method, request_type, limit_s, custom_timeout_message, **fields)

    def current_runs(self) -> frozenset[str]:
        """Ids of the runs that the server works on.

        Raises:
            DagsterUserCodeUnreachableError: it does not answer, or not in time.
        """
        return frozenset(deserialize_value(self.get_current_runs(), GetCurrentRunsResult).current_runs)


def runs_on(worker: Worker) -> frozenset[str] | str:
    """Ids of the runs that the worker works on, or why it is silent."""
    try:
        return WorkerClient(host=worker.host, port=worker.port).current_runs()
    except DagsterUserCodeUnreachableError as error:
        return f"does not answer ({_cause(error)})"


def client_of(run: dg.DagsterRun) -> WorkerClient | None:
    """A client of the code server that the run was started on, None where none was recorded.

    From the run's own tags: right in every process, and when the worker left the fleet file since.
    """
    info = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
    if not info:
        return None
    return WorkerClient(
        host=info.get("host"), port=info.get("port"), socket=info.get("socket"), use_ssl=bool(info.get("use_ssl"))
    )


def _cause(error: Exception) -> str:
    """The status of the call, as gRPC names it (UNAVAILABLE, DEADLINE_EXCEEDED), else the kind of error."""
    code = getattr(error.__cause__, "code", None)
    return code().name if callable(code) else type(error.__cause__ or error).__name__  # type: ignore[union-attr]
