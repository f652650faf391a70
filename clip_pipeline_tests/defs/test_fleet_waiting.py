"""Runs without a worker: what is said of them, how long they rest, and that they come back into the queue."""

import threading

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from clip_pipeline.defs.fleet_waiting import LONGEST_REST_S, SAY_AGAIN_S, Returns, WaitingRuns, put_back
from clip_pipeline_tests.defs.origins import origin_of


def test_a_reason_is_told_once_and_again_after_a_minute_and_at_once_when_it_changes():
    waiting = WaitingRuns()
    times = [0.0, 1.0, SAY_AGAIN_S - 0.1, SAY_AGAIN_S, SAY_AGAIN_S + 1, 2 * SAY_AGAIN_S]
    assert [waiting.note("run", "full", now=now)[0] for now in times] == [True, False, False, True, False, True]
    assert waiting.note("run", "silent", now=2 * SAY_AGAIN_S + 1)[0]
    assert waiting.note("other", "silent", now=2 * SAY_AGAIN_S + 1)[0]


def test_rests_grow_to_a_limit_and_start_anew_when_something_changed():
    waiting = WaitingRuns()
    assert [waiting.note("run", "full", now=n)[1] for n in range(6)] == [2, 4, 8, 16, LONGEST_REST_S, LONGEST_REST_S]
    assert waiting.note("run", "silent", now=9)[1] == 2
    waiting.forget("run")
    assert waiting.note("run", "silent", now=10) == (True, 2)


def test_runs_come_back_in_the_order_of_their_rests():
    back: list[str] = []
    done = threading.Event()

    def put(run_id: str) -> None:
        back.append(run_id)
        if len(back) == 3:
            done.set()

    returns = Returns(put)
    for run_id, rest_s in (("late", 0.3), ("soon", 0.05), ("now", 0.0)):
        returns.add(run_id, rest_s=rest_s)
    assert done.wait(10)
    returns.close()
    assert back == ["now", "soon", "late"]


def test_closing_puts_back_at_once_what_still_rests():
    back: list[str] = []
    returns = Returns(back.append)
    returns.add("r", rest_s=3600)
    returns.close()
    assert back == ["r"]


def test_a_run_whose_return_failed_is_not_lost(monkeypatch: pytest.MonkeyPatch):
    """The database may be restarted while runs rest."""
    monkeypatch.setattr("clip_pipeline.defs.fleet_waiting.RETRY_S", 0.0)
    calls: list[str] = []
    done = threading.Event()

    def put(run_id: str) -> None:
        calls.append(run_id)
        if len(calls) < 3:
            raise ConnectionError("the database is away")
        done.set()

    returns = Returns(put)
    returns.add("r", rest_s=0)
    assert done.wait(10)
    returns.close()
    assert calls == ["r", "r", "r"]


@pytest.mark.parametrize(
    ("status", "is_back", "after"),
    [
        (dg.DagsterRunStatus.STARTING, True, dg.DagsterRunStatus.QUEUED),
        (dg.DagsterRunStatus.CANCELING, False, dg.DagsterRunStatus.CANCELED),
        (dg.DagsterRunStatus.CANCELED, False, dg.DagsterRunStatus.CANCELED),
        (dg.DagsterRunStatus.FAILURE, False, dg.DagsterRunStatus.FAILURE),
    ],
)
def test_only_a_run_that_nobody_ended_goes_back(status: dg.DagsterRunStatus, is_back: bool, after: dg.DagsterRunStatus):
    with dg.DagsterInstance.ephemeral() as instance:
        run = create_run_for_test(instance, "embed_images", status=status, remote_job_origin=origin_of("gpu"))
        assert put_back(instance, run.run_id) is is_back
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        assert found.status is after


def test_a_run_that_comes_back_is_before_those_that_were_made_after_it():
    with dg.DagsterInstance.ephemeral() as instance:
        starting, queued = dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.QUEUED
        origin = origin_of("gpu")
        first = create_run_for_test(instance, "embed_images", status=starting, remote_job_origin=origin)
        second = create_run_for_test(instance, "embed_images", status=queued, remote_job_origin=origin)
        put_back(instance, first.run_id)
        in_queue = instance.get_runs(dg.RunsFilter(statuses=[queued]), ascending=True)
        assert [run.run_id for run in in_queue] == [first.run_id, second.run_id]
