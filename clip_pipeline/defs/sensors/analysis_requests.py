"""Analysis requests: where some wait and no run of the lane is alive, one is requested."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from clip_pipeline.defs.jobs import ANALYZE_JOB
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.defs.work import PRIORITY_TAG, UNFINISHED
from clip_pipeline.ledger.analysis_lookup import last_ended_at
from clip_pipeline.ledger.analysis_queue import lease_owners, release_leases_of, waiting
from clip_pipeline.ledger.database import Ledger

REQUESTS_PER_RUN = 200
"""A further run, where the settings allow several, is worth its start for so many requests."""

PRIORITY = 100
MAX_RETRIES_TAG = "dagster/max_retries"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
RUNS_LOOKED_AT = 10


@dataclass(frozen=True, slots=True)
class PastLaneRun:
    """A run of the lane that ended; times in Unix seconds. failed: it did not end by itself."""

    run_id: str
    failed: bool
    started_at: float
    ended_at: float


@dg.sensor(
    job_name=ANALYZE_JOB,
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a run of the analysis lane when uploads wait and none is alive.",
)
def analysis_requests(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """Free what dead runs hold, then request as many runs as the queue is worth."""
    ledger, instance = pipeline.ledger(), context.instance
    freed = release_leases_of(ledger, dead_owners(instance, ledger))
    queue = waiting(ledger)
    if queue.oldest_seq is None:
        return dg.SensorResult(skip_reason=f"no upload is waiting; {queue.processing} being analyzed")
    alive = instance.get_runs_count(dg.RunsFilter(job_name=ANALYZE_JOB, statuses=list(UNFINISHED)))
    wanted = runs_wanted(queue.submitted, most=pipeline.settings().analysis_runs) - alive
    counts = f"{queue.submitted} uploads waiting, {queue.processing} being analyzed, {freed} taken back, {alive} runs"
    if wanted <= 0:
        return dg.SensorResult(skip_reason=counts)
    past = past_lane_runs(instance)
    pause_s = pause_after(past, last_result_at=last_ended_at(ledger), now=time.time())
    if pause_s > 0:
        return dg.SensorResult(skip_reason=f"{counts}; the last runs failed, the next is requested in {pause_s:.0f} s")
    # The same state asked about twice gives the same keys; a run that ended since makes them new.
    state = f"{queue.oldest_seq}:{past[0].run_id if past else 'first'}"
    return dg.SensorResult(run_requests=[request_lane(state, number) for number in range(wanted)])


def runs_wanted(submitted: int, *, most: int) -> int:
    """Runs that a queue of this length is worth, at most `most`."""
    return min(most, math.ceil(submitted / REQUESTS_PER_RUN))


def pause_after(past: Sequence[PastLaneRun], *, last_result_at: float | None, now: float) -> float:
    """Seconds to wait yet before the next run, after runs that failed without bringing any request to its end.

    past: newest first. A run that was killed at work is followed at once: its requests wait.
    """
    barren = 0
    for run in past:
        if not run.failed or (last_result_at is not None and last_result_at >= run.started_at):
            break
        barren += 1
    if barren == 0:
        return 0.0
    pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (barren - 1))
    return max(0.0, past[0].ended_at + pause_s - now)


def request_lane(state: str, number: int) -> dg.RunRequest:
    """One run of the lane. Dagster's own retries are off: this sensor asks again, knowing what waits."""
    tags = {PRIORITY_TAG: str(PRIORITY), MAX_RETRIES_TAG: "0"}
    return dg.RunRequest(run_key=f"analyze:{state}:{number}", tags=tags)


def dead_owners(instance: dg.DagsterInstance, ledger: Ledger) -> list[str]:
    """The runs that hold leases and have ended, as Dagster knows: nobody need wait for the leases to run out."""
    owners = list(lease_owners(ledger))
    if not owners:
        return []
    alive = instance.get_run_ids(dg.RunsFilter(run_ids=owners, statuses=list(UNFINISHED)))
    return [owner for owner in owners if owner not in set(alive)]


def past_lane_runs(instance: dg.DagsterInstance) -> list[PastLaneRun]:
    """The newest runs of the lane that have ended, newest first."""
    records = instance.get_run_records(dg.RunsFilter(job_name=ANALYZE_JOB), limit=RUNS_LOOKED_AT)
    return [_past(record) for record in records if record.dagster_run.is_finished]


def _past(record: dg.RunRecord) -> PastLaneRun:
    run = record.dagster_run
    ended_at = record.end_time if record.end_time is not None else record.update_timestamp.timestamp()
    started_at = record.start_time if record.start_time is not None else ended_at
    return PastLaneRun(run.run_id, run.status == dg.DagsterRunStatus.FAILURE, started_at, ended_at)
