"""From outstanding work to run requests: what the three sensors that launch runs have in common."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dagster as dg

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs.attempts import Verdict, decide
from clip_pipeline.defs.work import Work, failure_message, past_runs, request_pack, request_run
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import give_up_batch

MAX_REQUESTS_PER_TICK = 40
"""SQLite takes 1.5 to 3.3 run submissions a second, and a tick may last 60 s."""


Pack = Callable[[Sequence[Work]], Sequence[Sequence[Work]]]
"""Divides work that was never tried into runs."""


@dataclass(slots=True)
class Requests:
    """What a tick decided: the runs to request, and how much work stands where."""

    runs: list[dg.RunRequest] = field(default_factory=list[dg.RunRequest])
    counts: dict[Verdict, int] = field(default_factory=dict[Verdict, int])

    def describe(self, noun: str) -> str:
        """One line of counts, for the tick's entry in the Dagster UI."""
        if not self.counts:
            return f"no {noun} is waiting"
        return f"{noun}: " + ", ".join(f"{n} {v.name.lower().replace('_', ' ')}" for v, n in self.counts.items())


def each_alone(works: Sequence[Work]) -> list[list[Work]]:
    """A run for each piece of work."""
    return [[work] for work in works]


def request_work(
    instance: dg.DagsterInstance,
    waiting: Sequence[Work],
    *,
    give_up: Callable[[Work, str], None],
    pack: Pack = each_alone,
) -> Requests:
    """Decide on each piece of waiting work; `give_up` is told of those whose attempts are used up, and why.

    Work that was tried before is tried alone: should it be what killed its run, it takes no other with it again.
    """
    requests = Requests()
    fresh: list[Work] = []
    for work in waiting[:MAX_REQUESTS_PER_TICK]:
        decision = decide(past_runs(instance, work.name, partition_key=work.partition_key), now=time.time())
        requests.counts[decision.verdict] = requests.counts.get(decision.verdict, 0) + 1
        if decision.verdict is Verdict.REQUEST and decision.attempt == 1:
            fresh.append(work)
            _log_request(work, attempt=1)
        elif decision.verdict is Verdict.REQUEST:
            requests.runs.append(request_run(work, attempt=decision.attempt))
            _log_request(work, attempt=decision.attempt)
        elif decision.verdict is Verdict.GIVEN_UP and decision.failed_run_id is not None:
            give_up(work, failure_message(instance, decision.failed_run_id))
    requests.runs += [request_pack(works, attempt=1) for works in pack(fresh)]
    return requests


def request_batches(
    instance: dg.DagsterInstance, ledger: Ledger, waiting: Sequence[Work], *, noun: str, pack: Pack = each_alone
) -> dg.SensorResult:
    """The tick's result for work on single batches; a batch that is given up keeps the reason in the ledger."""

    def give_up(work: Work, why: str) -> None:
        give_up_batch(ledger, BatchKey.parse(str(work.partition_key)).number, error=why)

    return as_sensor_result(request_work(instance, waiting, give_up=give_up, pack=pack), noun=noun)


def _log_request(work: Work, *, attempt: int) -> None:
    fields = {"work": work.name, "batch": work.partition_key, "job_ids": list(work.job_ids), "attempt": attempt}
    # Dagster's logger, since a code server has set that one up before the first tick.
    dg.get_dagster_logger("sensors").info("run requested", extra=fields)


def as_sensor_result(requests: Requests, *, noun: str) -> dg.SensorResult:
    """The tick's result: the requests, or counts of why there are none."""
    if requests.runs:
        return dg.SensorResult(run_requests=requests.runs)
    return dg.SensorResult(skip_reason=requests.describe(noun))
