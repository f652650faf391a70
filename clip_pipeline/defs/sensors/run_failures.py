"""Run failures: whoever the settings name is told of each run that failed and that nothing will try again.

A run that Dagster retries, or whose work the sensors ask for again, is none of them: the last failure is told. What the
webhook does not take is kept in the cursor and told later.
"""

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
import httpx

from clip_pipeline.core.errors import StackError
from clip_pipeline.defs.attempts import Verdict, decide
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.defs.work import JOB_TAG_PREFIX, WILL_RETRY_TAG, WORK_TAG, failure_message, past_runs
from clip_pipeline.settings import Settings

ANSWER_S = 5.0
FAILURES_A_TICK = 5
TELLING_S = 20.0
"""All of a tick together stays far below the 60 s that it may last."""

KEPT_S = 24 * 3600.0
MOST_KEPT = 200
"""A message is kept for so long, and so many of them, until the webhook takes it."""
AT_ONCE_S = 60.0
"""A message that waits for less is tried at every tick, one that waits for longer at one tick a minute."""

LOOKS_ARE_S = 5.5
"""From one tick to the next, at most, where the daemon is not held up."""

RETRY_KNOWN_S = 2.0
"""Dagster stores the failure of a run first, and whether it retries the run a moment later."""
JOBS_NAMED = 3
PARTITION_TAG = "dagster/partition"
FIRST_PARTITION_TAG, LAST_PARTITION_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dataclass(frozen=True, slots=True)
class Untold:
    """A run that failed for good and that nobody was told of yet. since: when that was seen, in Unix seconds."""

    run_id: str
    since: float


@dataclass(frozen=True, slots=True)
class Position:
    """How far the sensor has come. seen: the id of the last failure in Dagster's storage."""

    seen: int
    untold: tuple[Untold, ...] = ()

    @classmethod
    def parse(cls, cursor: str | None) -> "Position | None":
        """The position that a cursor holds; None where there is none, or one that another version wrote."""
        try:
            document: dict[str, Any] = json.loads(cursor or "{}")
            return cls(int(document["seen"]), tuple(Untold(str(r), float(s)) for r, s in document["untold"]))
        except (KeyError, TypeError, ValueError):
            return None

    def as_cursor(self) -> str:
        """For the next tick."""
        return json.dumps({"seen": self.seen, "untold": [[one.run_id, one.since] for one in self.untold]})


@dg.sensor(
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts each run that failed for good to the webhook CLIP_PIPELINE_ALERT_WEBHOOK, where one is set.",
)
def run_failures(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """Tell of what failed since the last tick, and of what the webhook did not take then."""
    before = Position.parse(context.cursor)
    if before is None:
        begun = Position(_newest_failure(context.instance))
        return dg.SensorResult(skip_reason="looks at failures from now on", cursor=begun.as_cursor())
    settings, now = pipeline.settings(), time.time()
    found = _look(context.instance, before, now=now)
    if not settings.alert_webhook.get_secret_value():
        reason = f"{len(found.untold)} runs failed for good; no webhook is set"
        return dg.SensorResult(skip_reason=reason, cursor=replace(found, untold=()).as_cursor())
    kept = _without_the_old(context, found, now=now)
    after, fault = _tell(context, kept, settings) if is_due(kept.untold, now=now) else (kept, "")
    if fault and after == before:  # nothing is lost with a tick that fails, and it is seen
        raise StackError(f"the webhook did not take a message ({fault}); look at CLIP_PIPELINE_ALERT_WEBHOOK")
    told = len(kept.untold) - len(after.untold)
    return dg.SensorResult(skip_reason=_said(told, len(after.untold), fault=fault), cursor=after.as_cursor())


def is_due(untold: tuple[Untold, ...], *, now: float) -> bool:
    """Whether the webhook is asked at this tick."""
    is_new = any(now - one.since < AT_ONCE_S for one in untold)
    return is_new or (bool(untold) and now % 60 < LOOKS_ARE_S)


def is_final(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """True of a failed run that neither Dagster retries nor a sensor asks for again."""
    if _tags_with_verdict(instance, run).get(WILL_RETRY_TAG) == "true":
        return False
    work = run.tags.get(WORK_TAG)
    return work is None or decide(past_runs(instance, work), now=time.time()).verdict is Verdict.GIVEN_UP


def describe_failure(run: dg.DagsterRun, *, why: str, settings: Settings) -> str:
    """One line for people: what failed, for whom, why, and the page of the run."""
    jobs = sorted(tag.removeprefix(JOB_TAG_PREFIX) for tag in run.tags if tag.startswith(JOB_TAG_PREFIX))
    named = ", ".join(jobs[:JOBS_NAMED]) + (f" and {len(jobs) - JOBS_NAMED} more" if len(jobs) > JOBS_NAMED else "")
    batch = run.tags.get(PARTITION_TAG) or " to ".join(
        run.tags[tag] for tag in (FIRST_PARTITION_TAG, LAST_PARTITION_TAG) if tag in run.tags
    )
    about = [f"batch {batch}"] * bool(batch) + [f"job {named}"] * bool(jobs)
    where = f" ({', '.join(about)})" if about else ""
    local = f"http://127.0.0.1:{settings.dagster_port}"
    page = f"{(settings.dagster_public_url or settings.dagster_url or local).rstrip('/')}/runs/{run.run_id}"
    return f"{run.job_name} failed for good{where}: {_escaped(why)} {page}"


def post(url: str, text: str) -> str:
    """Post a text as Slack takes it; returns what went wrong, if anything. The URL is a secret, and in no message."""
    try:
        answer = httpx.post(url, json={"text": text}, timeout=ANSWER_S)
    except httpx.InvalidURL:
        return "it is no URL"
    except httpx.HTTPError as error:
        return type(error).__name__
    return "" if answer.is_success else f"status {answer.status_code}"


def _newest_failure(instance: dg.DagsterInstance) -> int:
    found = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, limit=1).records
    return found[0].storage_id if found else 0


def _look(instance: dg.DagsterInstance, before: Position, *, now: float) -> Position:
    """The position after the next failures, with those of them that are final."""
    chosen = dg.RunStatusChangeRecordsFilter(dg.DagsterEventType.RUN_FAILURE, after_storage_id=before.seen)
    records = instance.fetch_run_status_changes(chosen, limit=FAILURES_A_TICK, ascending=True).records
    runs = [instance.get_run_by_id(record.run_id) for record in records]
    final = tuple(Untold(run.run_id, now) for run in runs if run is not None and is_final(instance, run))
    return Position(max([before.seen, *(record.storage_id for record in records)]), before.untold + final)


def _without_the_old(context: dg.SensorEvaluationContext, found: Position, *, now: float) -> Position:
    kept = tuple(one for one in found.untold if now - one.since < KEPT_S)[-MOST_KEPT:]
    for one in found.untold:
        if one not in kept:
            context.log.error("gave up telling the webhook of run %s, which failed for good", one.run_id)
    return replace(found, untold=kept)


def _tell(context: dg.SensorEvaluationContext, position: Position, settings: Settings) -> tuple[Position, str]:
    """Post the messages, oldest first, until the webhook does not take one; returns what is left, and its fault."""
    left, deadline = list(position.untold), time.monotonic() + TELLING_S
    while left and time.monotonic() < deadline:
        run = context.instance.get_run_by_id(left[0].run_id)
        if run is not None:  # a run that was deleted meanwhile has no page to look at
            why = failure_message(context.instance, run.run_id)
            text = describe_failure(run, why=why, settings=settings)
            fault = post(settings.alert_webhook.get_secret_value(), text)
            if fault:
                context.log.warning("the webhook did not take the message about run %s: %s", run.run_id, fault)
                return replace(position, untold=tuple(left)), fault
            context.log.info("told the webhook of run %s", run.run_id)
        left.pop(0)
    return replace(position, untold=tuple(left)), ""


def _said(told: int, left: int, *, fault: str) -> str:
    if not told and not left:
        return "nothing failed for good"
    waiting = f"; {left} wait for the webhook ({fault or 'it is asked again once a minute'})" if left else ""
    return f"told the webhook of {told} runs that failed for good{waiting}"


def _tags_with_verdict(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dict[str, str]:
    """The tags of a failed run, once Dagster has written down whether it retries it."""
    deadline = time.monotonic() + RETRY_KNOWN_S
    while instance.run_retries_enabled and WILL_RETRY_TAG not in run.tags and time.monotonic() < deadline:
        time.sleep(0.1)
        run = instance.get_run_by_id(run.run_id) or run
    return dict(run.tags)


def _escaped(text: str) -> str:
    """As Slack wants it: these three begin its markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
