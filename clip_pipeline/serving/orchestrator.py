"""What Dagster knows about work, asked over the GraphQL API of its webserver; and ending runs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from clip_pipeline.core.errors import StackError
from clip_pipeline.settings import Settings

TIMEOUT_S = 3.0
RUNS_SHOWN = 100
RUNS_ENDED = 1_000
TICKS_COUNTED = 1_000
TERMINATE_TIMEOUT_S = 30.0
"""Ending a run waits for its worker to be told, one after the other."""
JOBS_PER_QUERY = 20
HEARTBEAT_STALE_S = 180.0
"""Daemons report every 30 s. Dagster itself calls one healthy for half an hour after its last sign of life."""

# Written by the sensors (`defs`), which this layer does not import; the first is part of the wire contract.
JOB_TAG_PREFIX = "clip/job/"
WORK_TAG = "clip/work"

_RUNS = """runsOrError(filter: $%s, limit: %d) {
  __typename
  ... on Runs { results { runId status jobName creationTime startTime endTime tags { key value } } }
  ... on PythonError { message }
}"""
_UNFINISHED = ("NOT_STARTED", "QUEUED", "STARTING", "STARTED")
# SAFE_TERMINATE: a run that works is told to stop and says itself when it has; a queued one is canceled at once.
_TERMINATE = """mutation Terminate($runIds: [String!]!) {
  terminateRuns(runIds: $runIds, terminatePolicy: SAFE_TERMINATE) {
    __typename
    ... on TerminateRunsResult { terminateRunResults {
      __typename
      ... on TerminateRunSuccess { run { runId } }
    } }
    ... on PythonError { message }
  }
}"""
_COUNTED_RUNS = """runsOrError(filter: {statuses: [%s]}, limit: %d) {
  __typename
  ... on Runs { count results { creationTime } }
  ... on PythonError { message }
}"""
_NUMBERED_RUNS = """runsOrError(filter: {statuses: [%s]}, limit: 1) {
  __typename
  ... on Runs { count }
  ... on PythonError { message }
}"""
_RUN_STATUSES = ("starting", "started", "canceling", "success", "failure", "canceled")
_PULSE = f"""{{
  queued: {_COUNTED_RUNS % ("NOT_STARTED, QUEUED", RUNS_ENDED)}
  {" ".join(f"{status}: {_NUMBERED_RUNS % status.upper()}" for status in _RUN_STATUSES)}
  instance {{ daemonHealth {{ allDaemonStatuses {{ daemonType required lastHeartbeatTime }} }} }}
}}"""
_SENSORS = """query Ticks($since: Float!, $most: Int!) {
  workspaceOrError {
    __typename
    ... on PythonError { message }
    ... on Workspace { locationEntries { name locationOrLoadError {
      __typename
      ... on RepositoryLocation { repositories { sensors {
        name
        sensorState { ticks(statuses: [FAILURE], afterTimestamp: $since, limit: $most) { timestamp } }
      } } }
    } } }
  }
}"""
_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } } }"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One Dagster run. status: as Dagster writes it (`STARTED`); work: the name of the piece of work it was made
    for, its own id where none is given; times in Unix seconds."""

    run_id: str
    status: str
    job_name: str
    work: str
    created_at: float
    started_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether Dagster moves. runs: how many, by status (queued, started, success, ...); times in Unix seconds.

    oldest_queued_at: of the newest `RUNS_ENDED` queued runs, None where none waits. heartbeats: the last of each daemon
    that is required and ever gave one.
    """

    runs: dict[str, int]
    oldest_queued_at: float | None
    heartbeats: dict[str, float]


@dataclass(frozen=True, slots=True)
class Workspace:
    """What Dagster has loaded. locations: whether each could be; failed_ticks: by sensor, at most `TICKS_COUNTED`."""

    locations: dict[str, bool]
    failed_ticks: dict[str, int]


class Orchestrator:
    """Dagster's webserver at `url`; people find it at `public_url`, where that differs. Threads may share one."""

    def __init__(self, url: str, *, public_url: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._public_url = public_url.rstrip("/") or self._url
        # The webserver is on this machine or a neighbour: a proxy named for the world is not for it.
        self._client = httpx.Client(timeout=timeout_s, trust_env=False)

    def run_url(self, run_id: str) -> str:
        """The page of one run in the Dagster UI."""
        return f"{self._public_url}/runs/{run_id}"

    @property
    def url(self) -> str:
        """The address of the Dagster UI, for people."""
        return self._public_url

    def runs_of_jobs(self, job_ids: Sequence[str]) -> dict[str, list[RunInfo]]:
        """The newest runs that serve each job, newest first.

        Raises:
            StackError: the webserver does not answer, or not with runs.
        """
        found: dict[str, list[RunInfo]] = {}
        for start in range(0, len(job_ids), JOBS_PER_QUERY):
            found |= self._runs_of_some(job_ids[start : start + JOBS_PER_QUERY])
        return found

    def unfinished_runs(self, job_id: str) -> list[RunInfo]:
        """The runs that serve a job and wait or work, newest first.

        Raises:
            StackError: the webserver does not answer, or not with runs.
        """
        wanted = _job_filter(job_id) | {"statuses": list(_UNFINISHED)}
        query = f"query Runs($runs: RunsFilter!) {{ runs: {_RUNS % ('runs', RUNS_ENDED)} }}"
        return self._runs(self._ask(query, {"runs": wanted})["runs"])

    def terminate_runs(self, run_ids: Sequence[str]) -> list[str]:
        """Ask Dagster to end runs; returns the ids of those that it does end, the others had ended already.

        Raises:
            StackError: the webserver does not answer, or refuses.
        """
        if not run_ids:
            return []
        answer = self._ask(_TERMINATE, {"runIds": list(run_ids)}, timeout_s=TERMINATE_TIMEOUT_S)["terminateRuns"]
        if answer["__typename"] != "TerminateRunsResult":
            raise StackError(f"Dagster at {self._url} cannot end runs: {answer.get('message', answer['__typename'])}")
        results = answer["terminateRunResults"]
        return [result["run"]["runId"] for result in results if result["__typename"] == "TerminateRunSuccess"]

    def daemon_fault(self) -> str | None:
        """What is wrong with Dagster's daemons, in words, or None.

        Raises:
            StackError: the webserver does not answer.
        """
        statuses = self._ask(_DAEMONS, {})["instance"]["daemonHealth"]["allDaemonStatuses"]
        oldest = time.time() - HEARTBEAT_STALE_S
        silent = [s["daemonType"] for s in statuses if s["required"] and (s["lastHeartbeatTime"] or 0) < oldest]
        return f"no sign of life for {HEARTBEAT_STALE_S:.0f} s from: {', '.join(sorted(silent))}" if silent else None

    def pulse(self) -> Pulse:
        """How many runs wait and work, and when each daemon gave its last sign of life; one request.

        Raises:
            StackError: the webserver does not answer, or not with runs.
        """
        answer = self._ask(_PULSE, {})
        found = {status: self._listed(answer[status]) for status in ("queued", *_RUN_STATUSES)}
        daemons = answer["instance"]["daemonHealth"]["allDaemonStatuses"]
        return Pulse(
            {status: runs["count"] for status, runs in found.items()},
            min((run["creationTime"] for run in found["queued"]["results"]), default=None),
            {d["daemonType"]: d["lastHeartbeatTime"] for d in daemons if d["required"] and d["lastHeartbeatTime"]},
        )

    def workspace(self, *, since: float) -> Workspace:
        """Which code locations are loaded, and how many ticks of their sensors failed since a moment (Unix seconds).

        Raises:
            StackError: the webserver does not answer, or not with its workspace.
        """
        answer = self._ask(_SENSORS, {"since": since, "most": TICKS_COUNTED})["workspaceOrError"]
        if answer["__typename"] != "Workspace":
            fault = answer.get("message", answer["__typename"])
            raise StackError(f"Dagster at {self._url} cannot list its code locations: {fault}")
        entries = {entry["name"]: entry["locationOrLoadError"] or {} for entry in answer["locationEntries"]}
        loaded = {name: found.get("__typename") == "RepositoryLocation" for name, found in entries.items()}
        repositories = [repository for found in entries.values() for repository in found.get("repositories", ())]
        sensors = [sensor for repository in repositories for sensor in repository["sensors"]]
        return Workspace(loaded, {sensor["name"]: len(sensor["sensorState"]["ticks"]) for sensor in sensors})

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _runs_of_some(self, job_ids: Sequence[str]) -> dict[str, list[RunInfo]]:
        names = [f"job{number}" for number in range(len(job_ids))]
        parameters = ", ".join(f"${name}: RunsFilter!" for name in names)
        fields = "\n".join(f"{name}: {_RUNS % (name, RUNS_SHOWN)}" for name in names)
        filters = {name: _job_filter(job_id) for name, job_id in zip(names, job_ids, strict=True)}
        answer = self._ask(f"query Runs({parameters}) {{\n{fields}\n}}", filters)
        return {job_id: self._runs(answer[name]) for name, job_id in zip(names, job_ids, strict=True)}

    def _runs(self, answer: dict[str, Any]) -> list[RunInfo]:
        return [_run_info(run) for run in self._listed(answer)["results"]]

    def _listed(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["__typename"] != "Runs":
            raise StackError(f"Dagster at {self._url} cannot list runs: {answer.get('message', answer['__typename'])}")
        return answer

    def _ask(self, query: str, variables: dict[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        request = {"query": query, "variables": variables}
        timeout = self._client.timeout if timeout_s is None else httpx.Timeout(timeout_s)
        try:
            response = self._client.post(f"{self._url}/graphql", json=request, timeout=timeout)
            answer = response.raise_for_status().json()
            if answer.get("errors"):
                raise StackError(f"Dagster at {self._url} refuses the query: {answer['errors'][0].get('message')}")
            return answer["data"]
        except (httpx.HTTPError, ValueError, AttributeError, KeyError) as error:
            reason = str(error) or type(error).__name__
            raise StackError(
                f"Dagster does not answer at {self._url} ({reason}); start it with `clip-pipeline up`"
            ) from error


def local_orchestrator(settings: Settings) -> Orchestrator:
    """The Dagster webserver that the settings name, else the one that `clip-pipeline up` starts on this machine."""
    url = settings.dagster_url or f"http://127.0.0.1:{settings.dagster_port}"
    return Orchestrator(url, public_url=settings.dagster_public_url)


def _job_filter(job_id: str) -> dict[str, Any]:
    return {"tags": [{"key": f"{JOB_TAG_PREFIX}{job_id}", "value": "1"}]}


def _run_info(run: dict[str, Any]) -> RunInfo:
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    return RunInfo(
        run["runId"], run["status"], run["jobName"], tags.get(WORK_TAG, run["runId"]), run["creationTime"],
        run["startTime"], run["endTime"],
    )  # fmt: skip
