"""Run failures: whoever the settings name is told of each run that failed and that nothing will try again.

A run that Dagster retries, or whose work the sensors ask for again, is none of them: the last failure is told.
"""

import time
from collections.abc import Callable

import dagster as dg
import httpx

from clip_pipeline.core.errors import StackError
from clip_pipeline.defs.attempts import Verdict, decide
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.defs.work import JOB_TAG_PREFIX, WILL_RETRY_TAG, WORK_TAG, failure_message, past_runs
from clip_pipeline.settings import Settings

TRIES = 3
ANSWER_S = 5.0
PAUSE_S = 2.0
"""Between two tries. All of them together stay far below the 60 s that a tick may last."""

RETRY_KNOWN_S = 2.0
"""Dagster stores the failure of a run first, and whether it retries the run a moment later."""
JOBS_NAMED = 3
PARTITION_TAG = "dagster/partition"
FIRST_PARTITION_TAG, LAST_PARTITION_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@dg.run_failure_sensor(
    monitor_all_code_locations=True,
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Posts each run that failed for good to the webhook CLIP_PIPELINE_ALERT_WEBHOOK, where one is set.",
)
def run_failures(context: dg.RunFailureSensorContext, pipeline: PipelineResource) -> dg.SkipReason | None:
    """Tell of one run. Where the webhook does not take it the tick fails, and the next goes on with the next run."""
    settings, run = pipeline.settings(), context.dagster_run
    url = settings.alert_webhook.get_secret_value()
    if not url:
        return dg.SkipReason(f"run {run.run_id} failed; no webhook is set")
    if not is_final(context.instance, run):
        return dg.SkipReason(f"run {run.run_id} failed and is tried again")
    text = describe_failure(run, why=failure_message(context.instance, run.run_id), settings=settings)
    post(url, text, note=context.log.warning)
    context.log.info("told the webhook of run %s", run.run_id)
    return None


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


def post(url: str, text: str, *, note: Callable[[str], object]) -> None:
    """Post a text as Slack takes it; tries a few times. The URL is a secret, and appears in no message.

    Raises:
        StackError: the webhook refused it, or did not answer.
    """
    fault = ""
    for number in range(1, TRIES + 1):
        fault, is_worth_another = _try_to_post(url, text)
        if not fault:
            return
        note(f"webhook, try {number} of {TRIES}: {fault}")
        if not is_worth_another:
            break
        if number < TRIES:
            time.sleep(PAUSE_S)
    raise StackError(f"the webhook did not take a message ({fault}); look at CLIP_PIPELINE_ALERT_WEBHOOK")


def _try_to_post(url: str, text: str) -> tuple[str, bool]:
    """What went wrong, if anything, and whether it may pass."""
    try:
        answer = httpx.post(url, json={"text": text}, timeout=ANSWER_S)
    except httpx.InvalidURL:
        return "it is no URL", False
    except httpx.HTTPError as error:
        return type(error).__name__, not isinstance(error, httpx.UnsupportedProtocol)
    if answer.is_success:
        return "", False
    return f"status {answer.status_code}", answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error


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
