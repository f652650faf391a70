"""The runs of Dagster as its webserver shows them, asked again while it is away."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from clip_pipeline.defs.fleet import WORKER_TAG
from clip_pipeline_tests.campaign.load import until

FINAL = frozenset({"SUCCESS", "FAILURE", "CANCELED"})
IN_WORK = ("STARTING", "STARTED", "CANCELING")
_PATIENCE_S = 90.0
_QUERY = """
query Runs($filter: RunsFilter!) {
  runsOrError(filter: $filter, limit: 500) {
    ... on Runs { results { runId status jobName parentRunId tags { key value } } }
  }
}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. worker: the address of the one it was started on last; parent: the run that it is a retry of."""

    run_id: str
    status: str
    job: str
    worker: str | None
    parent: str | None


@dataclass(frozen=True, slots=True)
class Retries:
    """How many runs were retries of others; elsewhere: of those of a worker, the ones on another worker."""

    all: int = 0
    of_workers: int = 0
    elsewhere: int = 0


class Runs:
    """Asks for runs."""

    def __init__(self, graphql_url: str) -> None:
        self._http = httpx.Client(timeout=15, trust_env=False)
        self._url = graphql_url

    def of_job(self, job_id: str) -> list[Run]:
        """The runs that serve one of our jobs."""
        return self._asked({"tags": [{"key": f"clip/job/{job_id}", "value": "1"}]})

    def in_work(self) -> list[Run]:
        """The runs that were taken out of the queue and have not ended."""
        return self._asked({"statuses": list(IN_WORK)})

    def unfinished(self) -> list[Run]:
        """The runs that wait or work."""
        return self._asked({"statuses": ["NOT_STARTED", "QUEUED", *IN_WORK]})

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _asked(self, chosen: Mapping[str, Any]) -> list[Run]:
        return until(lambda: self._ask(chosen), timeout_s=_PATIENCE_S, what="the webserver tells of runs")

    def _ask(self, chosen: Mapping[str, Any]) -> list[Run] | None:
        try:
            answer = self._http.post(self._url, json={"query": _QUERY, "variables": {"filter": chosen}})
            document = answer.raise_for_status().json()
        except httpx.HTTPError:
            return None
        if "errors" in document or "results" not in document["data"]["runsOrError"]:
            return None
        return [_run(found) for found in document["data"]["runsOrError"]["results"]]


def count_retries(runs: Iterable[Run]) -> Retries:
    """What became of the failed runs among these."""
    by_id = {run.run_id: run for run in runs}
    pairs = [(run, by_id.get(run.parent)) for run in by_id.values() if run.parent]
    moved = [run.worker != before.worker for run, before in pairs if before and before.worker and run.worker]
    return Retries(len(pairs), len(moved), sum(moved))


def unended(runs: Sequence[Run]) -> list[str]:
    """Those that are in no final state, in words."""
    return [f"run {run.run_id} of {run.job} is {run.status}" for run in runs if run.status not in FINAL]


def _run(found: Mapping[str, Any]) -> Run:
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    return Run(found["runId"], found["status"], found["jobName"], tags.get(WORKER_TAG), found["parentRunId"])
