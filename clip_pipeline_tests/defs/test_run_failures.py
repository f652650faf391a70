"""Runs that really fail, and a real HTTP server that is told of them."""

import time

import dagster as dg
import pytest

from clip_pipeline.core.errors import StackError
from clip_pipeline.defs.attempts import MAX_ATTEMPTS
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.run_failures import KEPT_S, MOST_KEPT, Position, Untold, is_due, run_failures
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
    """The sensor as the daemon evaluates it: each tick goes on where the last that did not fail ended."""

    def __init__(self, instance, cursor=None):
        self._instance, self.cursor = instance, cursor
        self.next()  # the first tick only says from where on it looks

    def next(self):
        """What the tick says of itself."""
        with dg.build_sensor_context(
            self._instance, cursor=self.cursor, repository_def=watched, resources={"pipeline": PipelineResource()}
        ) as context:
            found = run_failures.evaluate_tick(context)
        self.cursor = found.cursor
        return str(found.skip_message)

    @property
    def untold(self):
        position = Position.parse(self.cursor)
        assert position is not None
        return position.untold

    def age(self, seconds):
        """Make the messages that wait so much older."""
        position = Position.parse(self.cursor)
        assert position is not None
        older = tuple(Untold(one.run_id, one.since - seconds) for one in position.untold)
        self.cursor = Position(position.seen, older).as_cursor()


def test_a_run_that_failed_for_good_is_told_in_one_line_with_its_page(instance, webhook):
    ticks = Ticks(instance)
    run = fail(instance, **{"dagster/partition": "b0000042", "clip/job/idx_2": "1", "clip/job/idx_1": "1"})
    assert ticks.next() == "told the webhook of 1 runs that failed for good"
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
    assert ticks.next() == "nothing failed for good"
    fail(instance, **{WILL_RETRY_TAG: "false"})
    ticks.next()
    assert len(webhook.told) == 1


def test_work_that_the_sensors_ask_for_again_is_told_when_it_is_given_up(instance, webhook):
    ticks = Ticks(instance)
    for number in range(1, MAX_ATTEMPTS + 1):
        fail(instance, **{WORK_TAG: "embed:b0000001:x"})
        ticks.next()
        assert len(webhook.told) == (number == MAX_ATTEMPTS)


@pytest.mark.parametrize("status", [500, 429, 404])
def test_what_a_webhook_does_not_take_is_told_at_a_later_tick_once_and_in_order(instance, webhook, status):
    """It was lost after three tries within one tick."""
    ticks = Ticks(instance)
    webhook.statuses = [status] * 4
    first = fail(instance)
    assert ticks.next().endswith(f"1 wait for the webhook (status {status})")
    second = fail(instance)
    assert ticks.next().endswith(f"2 wait for the webhook (status {status})")
    assert [one.run_id for one in ticks.untold] == [first.run_id, second.run_id]
    for _ in range(2):  # nothing is lost with a tick that fails, and it is counted
        with pytest.raises(StackError, match=rf"status {status}.*CLIP_PIPELINE_ALERT_WEBHOOK") as caught:
            ticks.next()
        assert "secret" not in str(caught.value)
    assert (webhook.told, webhook.asked) == ([], 4)
    assert ticks.next() == "told the webhook of 2 runs that failed for good"
    assert [run.run_id in told["text"] for run, told in zip((first, second), webhook.told, strict=True)] == [True, True]
    assert ticks.next() == "nothing failed for good"
    assert webhook.asked == 6


def test_a_message_that_no_webhook_took_for_a_day_is_given_up_with_a_line_in_the_log(instance, webhook, capsys):
    ticks = Ticks(instance)
    webhook.statuses = [503] * 2
    old = fail(instance)
    ticks.next()
    ticks.age(KEPT_S)
    new = fail(instance)
    ticks.next()
    assert [one.run_id for one in ticks.untold] == [new.run_id]
    assert f"gave up telling the webhook of run {old.run_id}" in capsys.readouterr().err


def test_no_more_messages_are_kept_than_a_cursor_should_hold(instance, webhook, capsys):
    ticks = Ticks(instance)
    position = Position.parse(ticks.cursor)
    assert position is not None
    many = tuple(Untold(f"run-{number}", time.time()) for number in range(2 * MOST_KEPT))
    ticks.cursor = Position(position.seen, many).as_cursor()
    webhook.statuses = [503]
    fail(instance)
    ticks.next()
    assert capsys.readouterr().err.count("gave up telling") == MOST_KEPT + 1


def test_a_webhook_that_is_away_for_long_is_asked_once_a_minute():
    now = 6_000_000.0
    fresh, stale = Untold("a", now - 10), Untold("b", now - 1_000)
    assert not is_due((), now=now)
    assert is_due((stale, fresh), now=now + 30)
    assert [second for second in range(120) if is_due((stale,), now=now + second)] == [*range(6), *range(60, 66)]


def test_a_cursor_of_another_version_begins_anew(instance, webhook):
    fail(instance)
    ticks = Ticks(instance, cursor='{"__class__": "RunStatusSensorCursor", "record_id": 1}')
    fail(instance)
    ticks.next()
    assert len(webhook.told) == 1


@pytest.mark.usefixtures("webhook")
@pytest.mark.parametrize(
    ("url", "said"), [("no url", "UnsupportedProtocol"), ("http://[::1", "no URL"), ("ftp://example.org/x", "Unsupp")]
)
def test_what_is_no_url_is_said_without_naming_it(instance, monkeypatch, url, said):
    ticks = Ticks(instance)
    monkeypatch.setenv("CLIP_PIPELINE_ALERT_WEBHOOK", url)
    fail(instance)
    ticks.next()
    with pytest.raises(StackError, match=said):
        ticks.next()


@pytest.mark.usefixtures("webhook")
def test_a_webhook_that_nobody_answers_at_fails_a_tick_without_naming_its_url(instance, monkeypatch):
    ticks = Ticks(instance)
    monkeypatch.setenv("CLIP_PIPELINE_ALERT_WEBHOOK", f"http://127.0.0.1:{free_port()}/secret")
    fail(instance)
    ticks.next()
    with pytest.raises(StackError, match="ConnectError") as caught:
        ticks.next()
    assert "secret" not in str(caught.value)


def test_without_a_webhook_nothing_is_told_and_no_tick_fails(instance, webhook, monkeypatch):
    ticks = Ticks(instance)
    monkeypatch.setenv("CLIP_PIPELINE_ALERT_WEBHOOK", "")
    fail(instance)
    assert "no webhook is set" in ticks.next()
    assert (webhook.asked, ticks.untold) == (0, ())


def test_the_url_is_hidden_where_settings_are_shown(webhook):
    assert webhook.url not in repr(PipelineResource().settings())
