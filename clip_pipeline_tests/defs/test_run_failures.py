"""Runs that really fail, and a real HTTP server that is told of them."""

import dagster as dg
import pytest

from clip_pipeline.defs.attempts import MAX_ATTEMPTS
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors import run_failures as module
from clip_pipeline.defs.sensors.run_failures import TRIES, run_failures
from clip_pipeline.defs.work import WILL_RETRY_TAG, WORK_TAG
from clip_pipeline_tests.serving.world import free_port
from clip_pipeline_tests.webhook import open_webhook

PUBLIC = "https://dagster.example.org"


@dg.op
def divide():
    raise ZeroDivisionError("nothing is <left> & right\nat all")


@dg.job
def embed_images():
    divide()


@dg.repository
def watched():
    return [run_failures, embed_images]


@pytest.fixture
def webhook(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    monkeypatch.setenv("CLIP_PIPELINE_HOME", str(tmp_path))
    monkeypatch.setenv("CLIP_PIPELINE_DAGSTER_PUBLIC_URL", f"{PUBLIC}/")
    with open_webhook() as opened:
        monkeypatch.setenv("CLIP_PIPELINE_ALERT_WEBHOOK", opened.url)
        yield opened


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def fail(instance, **tags):
    """A run that failed, with these tags."""
    done = embed_images.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    assert not done.success
    return done.dagster_run


class Ticks:
    """The sensor as the daemon evaluates it: each tick goes on where the one before ended."""

    def __init__(self, instance):
        self._instance, self._cursor = instance, None
        self.next()  # the first tick only says from where on it looks

    def next(self):
        with dg.build_sensor_context(
            self._instance, cursor=self._cursor, repository_def=watched, resources={"pipeline": PipelineResource()}
        ) as context:
            found = run_failures.evaluate_tick(context)
        self._cursor = found.cursor
        return found


def errors(tick):
    return [reaction.error for reaction in tick.dagster_run_reactions or [] if reaction.error]


def test_a_run_that_failed_for_good_is_told_in_one_line_with_its_page(instance, webhook):
    ticks = Ticks(instance)
    run = fail(instance, **{"dagster/partition": "b0000042", "clip/job/idx_2": "1", "clip/job/idx_1": "1"})
    assert errors(ticks.next()) == []
    assert webhook.told == [{"text": (
        "embed_images failed for good (batch b0000042, job idx_1, idx_2): "
        f"run {run.run_id}: ZeroDivisionError: nothing is &lt;left&gt; &amp; right at all "
        f"{PUBLIC}/runs/{run.run_id}"
    )}]  # fmt: skip


def test_each_failure_is_told_once(instance, webhook):
    ticks = Ticks(instance)
    fail(instance)
    ticks.next()
    fail(instance)
    for _ in range(3):
        ticks.next()
    assert len(webhook.told) == 2


def test_many_jobs_are_named_by_the_first_and_their_number(instance, webhook):
    ticks = Ticks(instance)
    fail(instance, **{f"clip/job/idx_{n}": "1" for n in range(7)})
    ticks.next()
    assert "(job idx_0, idx_1, idx_2 and 4 more)" in webhook.told[0]["text"]


def test_a_run_that_dagster_retries_is_not_told(instance, webhook):
    ticks = Ticks(instance)
    fail(instance, **{WILL_RETRY_TAG: "true"})
    tick = ticks.next()
    assert "tried again" in str(tick.skip_message)
    fail(instance, **{WILL_RETRY_TAG: "false"})
    ticks.next()
    assert len(webhook.told) == 1


def test_work_that_the_sensors_ask_for_again_is_told_when_it_is_given_up(instance, webhook):
    ticks = Ticks(instance)
    for number in range(1, MAX_ATTEMPTS + 1):
        fail(instance, **{WORK_TAG: "embed:b0000001:x"})
        ticks.next()
        assert len(webhook.told) == (number == MAX_ATTEMPTS)


def test_a_webhook_that_is_away_for_a_moment_is_tried_again_at_once(instance, webhook):
    ticks = Ticks(instance)
    webhook.statuses = [503, 429]
    fail(instance)
    assert errors(ticks.next()) == []
    assert (len(webhook.told), webhook.asked) == (1, 3)


@pytest.mark.parametrize(("statuses", "tries"), [([500] * 20, TRIES), ([404] * 20, 1)])
def test_a_webhook_that_refuses_fails_one_tick_and_no_later_one(instance, webhook, statuses, tries):
    ticks = Ticks(instance)
    webhook.statuses = statuses
    fail(instance)
    (error,) = errors(ticks.next())
    assert f"status {statuses[0]}" in error.message
    assert "secret" not in error.to_string()
    assert webhook.asked == tries
    assert errors(ticks.next()) == []
    assert webhook.asked == tries  # it is not asked about this run again
    webhook.statuses = []
    fail(instance)
    ticks.next()
    assert len(webhook.told) == 1


@pytest.mark.usefixtures("webhook")
def test_a_webhook_that_nobody_answers_at_fails_the_tick_without_naming_its_url(instance, monkeypatch):
    ticks = Ticks(instance)
    monkeypatch.setenv("CLIP_PIPELINE_ALERT_WEBHOOK", f"http://127.0.0.1:{free_port()}/secret")
    fail(instance)
    (error,) = errors(ticks.next())
    assert "ConnectError" in error.message
    assert "secret" not in error.to_string()


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize("url", ["no url", "http://[::1", "ftp://example.org/x"])
def test_what_is_no_url_is_said_and_not_tried_again(instance, monkeypatch, url):
    ticks = Ticks(instance)
    monkeypatch.setenv("CLIP_PIPELINE_ALERT_WEBHOOK", url)
    fail(instance)
    (error,) = errors(ticks.next())
    assert "CLIP_PIPELINE_ALERT_WEBHOOK" in error.message


def test_without_a_webhook_nothing_is_told_and_no_tick_fails(instance, webhook, monkeypatch):
    ticks = Ticks(instance)
    monkeypatch.setenv("CLIP_PIPELINE_ALERT_WEBHOOK", "")
    fail(instance)
    tick = ticks.next()
    assert "no webhook is set" in str(tick.skip_message)
    assert webhook.asked == 0


def test_the_url_is_hidden_where_settings_are_shown(webhook):
    assert webhook.url not in repr(PipelineResource().settings())
