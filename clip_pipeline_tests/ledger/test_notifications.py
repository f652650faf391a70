"""Announcements of changes by a real PostgreSQL server: what is announced, what is not, and how they come back."""

import queue
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from clip_pipeline.core.errors import StoreError
from clip_pipeline.ledger.analysis_queue import renew
from clip_pipeline.ledger.analysis_requests import submit_analysis
from clip_pipeline.ledger.api_keys import Scope, create_key, note_use, revoke_key
from clip_pipeline.ledger.cancellation import cancel_job
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.engines import make_engine
from clip_pipeline.ledger.jobs import open_jobs
from clip_pipeline.ledger.notifications import APPLICATION, Notifications, Topic, announces_changes
from clip_pipeline.ledger.schema import jobs
from clip_pipeline.serving.server import bind
from clip_pipeline_tests.ledger import analyses, steps

PATIENCE_S = 20.0
END_LISTENERS = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name")


@pytest.fixture
def announcing(postgres):
    """A ledger in PostgreSQL."""
    opened = open_ledger(postgres.new_database())
    yield opened
    opened.close()


def job_rows(count):
    numbers = dict.fromkeys(("images_count", "new_images_count", "already_indexed_count", "total_images"), 0)
    return [{"job_id": f"idx_{n}", "source": "api", "created_at": "x"} | numbers for n in range(count)]


class Ear:
    """Hears what a ledger announces."""

    def __init__(self, ledger):
        self._heard = queue.Queue()
        self.notifications = Notifications(ledger, self._heard.put)

    def next(self):
        return self._heard.get(timeout=PATIENCE_S)

    def until(self, last):
        """What is heard up to the topic `last`, that included."""
        heard = [self.next()]
        while heard[-1] != last:
            heard.append(self.next())
        return heard


@pytest.fixture
def ear(announcing):
    """Somebody who hears, and has been told of every topic since the connection was made."""
    opened = Ear(announcing)
    opened.notifications.start()
    assert {opened.next() for _ in Topic} == set(Topic)
    yield opened
    opened.notifications.close()


def registered(ledger):
    steps.register(ledger, "/photos/a.jpg")


def canceled(ledger):
    (job,) = open_jobs(ledger)
    cancel_job(ledger, job.job_id)


def advanced(ledger):
    (batch,) = steps.plan(ledger)
    record_progress(ledger, batch, processed=1, run_id="run")


def submitted(ledger):
    submit_analysis(ledger, analyses.upload())


def claimed(ledger):
    assert analyses.take(ledger)


def key_made(ledger):
    create_key(ledger, "somebody", scope=Scope.READ, expires_at=None)


@pytest.mark.parametrize(
    ("before", "change", "topic"),
    [
        ((), registered, Topic.JOBS),
        ((registered,), canceled, Topic.JOBS),
        ((registered,), advanced, Topic.JOBS),
        ((), submitted, Topic.ANALYSES),
        ((submitted,), claimed, Topic.ANALYSES),
        ((), key_made, Topic.KEYS),
    ],
)
def test_a_committed_change_is_announced_with_its_topic(announcing, before, change, topic):
    for step in before:
        step(announcing)
    ear = Ear(announcing)
    ear.notifications.start()
    try:
        assert {ear.next() for _ in Topic} == set(Topic)
        change(announcing)
        assert ear.next() == topic
    finally:
        ear.notifications.close()


def test_a_revoked_key_is_announced_and_a_used_one_is_not(announcing, ear):
    key = create_key(announcing, "somebody", scope=Scope.READ, expires_at=None).key
    assert ear.until(Topic.KEYS) == [Topic.KEYS]
    note_use(announcing, key.key_id, unless_since=datetime.now(UTC))
    registered(announcing)
    assert ear.until(Topic.JOBS) == [Topic.JOBS]
    revoke_key(announcing, key.key_id)
    assert ear.until(Topic.KEYS)[-1] == Topic.KEYS


def test_renewed_leases_and_what_is_rolled_back_are_announced_to_nobody(announcing, ear):
    submitted(announcing)
    claimed(announcing)
    key_made(announcing)
    assert set(ear.until(Topic.KEYS)) == {Topic.ANALYSES, Topic.KEYS}
    assert renew(announcing, "run", lease_s=60, now=analyses.NOW) == 1
    with suppress(ZeroDivisionError), announcing.write() as connection:
        connection.execute(jobs.insert(), job_rows(1))
        raise ZeroDivisionError
    key_made(announcing)
    assert ear.until(Topic.KEYS) == [Topic.KEYS]


def test_a_large_change_is_announced_once(announcing, ear):
    with announcing.write() as connection:
        connection.execute(jobs.insert(), job_rows(500))
    key_made(announcing)
    assert ear.until(Topic.KEYS) == [Topic.JOBS, Topic.KEYS]


def test_a_lost_connection_is_told_and_made_again(postgres, announcing, ear):
    with postgres.administration() as connection:
        assert connection.execute(END_LISTENERS, {"name": APPLICATION}).all() == [(True,)]
    # Once because it was lost, once because it is there again: either time something may have been missed.
    assert [ear.next() for _ in (*Topic, *Topic)] == [*Topic, *Topic]
    assert ear.notifications.is_live
    registered(announcing)
    assert ear.next() == Topic.JOBS


def test_a_connection_by_which_announcements_do_not_come_is_not_believed(announcing, ear):
    """As behind a pooler that gives each transaction another connection."""
    with announcing.engine.connect() as deaf:
        driver = deaf.connection.driver_connection
        with pytest.raises(StoreError, match="session mode"):
            ear.notifications._probe(deaf, driver)


def test_closing_does_not_wait_for_a_server_that_does_not_answer(announcing):
    with bind("127.0.0.1", 0) as silent:
        url = announcing.engine.url.set(port=silent.getsockname()[1])
        heard = []
        notifications = Notifications(Ledger(make_engine(url, cache_kib=0)), heard.append)
        notifications.start()
        begun = time.monotonic()
        notifications.close()
        assert time.monotonic() - begun < 4
    assert (heard, notifications.is_live) == ([], False)


def test_closing_while_changes_are_announced_leaves_nothing_open(announcing):
    for _ in range(20):
        ear = Ear(announcing)
        ear.notifications.start()
        assert ear.until(Topic.KEYS)
        key_made(announcing)
        ear.notifications.close()
        ear.notifications.close()
        ear.notifications._thread.join(PATIENCE_S)
        assert not ear.notifications._thread.is_alive()
        assert not ear.notifications.is_live


def test_sqlite_announces_nothing(tmp_path):
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.sqlite3")
    assert not announces_changes(opened)
    opened.close()
