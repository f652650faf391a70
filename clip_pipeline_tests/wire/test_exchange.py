"""Retries and waiting, driven step by step: no clock, no connection."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from clip_pipeline.wire import calls
from clip_pipeline.wire.exchange import (
    MOST_ATTEMPTS,
    ApiError,
    Pause,
    Send,
    WaitTimeoutError,
    perform,
    wait_for_job,
)

STATS = {"total_images": 3, "num_failed": 1, "index_size_mb": 0.5, "unheard_of": True}


def answer(status=200, json=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=STATS if json is None else json, headers=named)


def drive(exchange, outcomes):
    """The result of an exchange that is given these outcomes one after another, and the pauses it asked for."""
    left, pauses, outcome = list(outcomes), [], None
    while True:
        try:
            step = exchange.send(outcome)
        except StopIteration as end:
            assert left == []
            return end.value, pauses
        if isinstance(step, Send):
            outcome = left.pop(0)
        else:
            assert isinstance(step, Pause)
            pauses.append(step.seconds)
            outcome = None


def drive_to_error(call, *outcomes):
    with pytest.raises(ApiError) as caught:
        drive(perform(call), outcomes)
    return caught.value


def job_answer(status, processed, **more):
    progress = {"total_images": 4, "processed_images": processed, "failed_images": 0,
                "percent_complete": 25.0 * processed}  # fmt: skip
    return answer(json={"job_id": "idx_1", "status": status, "progress": progress, "created_at": "t"} | more)


def test_an_answer_at_once_costs_no_pause():
    stats, pauses = drive(perform(calls.stats()), [answer()])
    assert (stats.total_images, stats.num_failed, stats.model_name, pauses) == (3, 1, None, [])


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("cut"),
        answer(503),
        answer(429),
    ],
)
def test_a_repeatable_call_is_sent_again_after_a_fault_that_may_pass(fault):
    stats, pauses = drive(perform(calls.stats()), [fault, fault, answer()])
    assert stats.total_images == 3
    assert len(pauses) == 2
    assert all(0 <= pause <= 1 for pause in pauses)


@pytest.mark.parametrize("fault", [httpx.ReadError("reset"), httpx.ReadTimeout("slow"), answer(503), answer(500)])
def test_a_call_that_may_have_been_done_is_not_sent_again_unless_it_is_repeatable(fault):
    assert not calls.retry_failed("idx_1").is_repeatable
    drive_to_error(calls.retry_failed("idx_1"), fault)


@pytest.mark.parametrize("fault", [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), answer(429)])
def test_a_call_that_was_never_done_is_sent_again_whatever_it_is(fault):
    made = {"job_id": "idx_2", "status": "queued", "images_count": 1, "new_images_count": 1, "already_indexed_count": 0}
    submission, _ = drive(perform(calls.retry_failed("idx_1")), [fault, answer(202, json=made)])
    assert submission.job_id == "idx_2"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 500])
def test_what_will_not_pass_is_not_tried_again(status):
    error = drive_to_error(calls.stats(), answer(status, json={"title": "No", "detail": "never", "status": status}))
    assert (error.status, error.title, error.detail) == (status, "No", "never")


def test_in_the_end_the_last_fault_is_told():
    error = drive_to_error(calls.stats(), *[httpx.ConnectError("refused")] * MOST_ATTEMPTS)
    assert error.status == 0
    assert "refused" in str(error)
    assert "clip-pipeline up" in str(error)


def test_the_pause_that_the_service_asks_for_is_kept_in_seconds_and_as_a_date():
    _, pauses = drive(perform(calls.stats()), [answer(429, retry_after="7"), answer(503, retry_after="0"), answer()])
    assert pauses == [7, 0]
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    _, (pause,) = drive(perform(calls.stats()), [answer(429, retry_after=date), answer()])
    assert 25 < pause <= 30


def test_a_pause_longer_than_a_minute_is_the_callers_decision():
    assert drive_to_error(calls.stats(), answer(429, retry_after="3600")).status == 429


def test_an_error_carries_the_fields_at_fault_and_the_request_id():
    problem = {"title": "Unprocessable", "detail": "two faults", "errors": [{"field": "k", "detail": "too large"}]}
    error = drive_to_error(calls.stats(), answer(422, json=problem, x_request_id="r-1"))
    assert (error.errors, error.request_id) == (({"field": "k", "detail": "too large"},), "r-1")


def test_an_error_page_of_a_proxy_is_an_error_too():
    error = drive_to_error(calls.stats(), httpx.Response(502, text="<h1>Bad Gateway</h1>"))
    assert (error.status, error.title, error.detail) == (502, "Bad Gateway", "<h1>Bad Gateway</h1>")


@pytest.mark.parametrize("text", ["<html>", "[]", '{"total_images": 1}'])
def test_a_success_that_is_no_answer_of_this_service_is_an_error(text):
    assert "Not an answer" in drive_to_error(calls.stats(), httpx.Response(200, text=text)).title


def test_an_unhealthy_service_is_an_answer_and_not_an_error():
    document = {"status": 503, "detail": "index: broken", "parts": {"index": {"status": "failing"}}}
    health, pauses = drive(perform(calls.health()), [answer(503, json=document)])
    assert (health.is_ok, health.detail, health.parts["index"]["status"], pauses) == (
        False,
        "index: broken",
        "failing",
        [],
    )


def test_waiting_tells_of_progress_only_when_there_is_some_and_asks_ever_less_often():
    told = []
    states = [("queued", 0), ("queued", 0), ("running", 0), ("running", 2), ("running", 2), ("completed", 4)]
    job, pauses = drive(
        wait_for_job("idx_1", on_progress=told.append, timeout_s=None), [job_answer(*state) for state in states]
    )
    assert (job.status, job.is_final) == ("completed", True)
    assert [(j.status, j.progress.processed_images) for j in told] == [
        ("queued", 0), ("running", 0), ("running", 2), ("completed", 4),
    ]  # fmt: skip
    assert pauses == pytest.approx([0.2, 0.3, 0.45, 0.2, 0.3])


@pytest.mark.parametrize("status", ["completed", "failed", "canceled"])
def test_waiting_ends_at_each_final_state(status):
    job, _ = drive(wait_for_job("idx_1", on_progress=None, timeout_s=0), [job_answer(status, 1)])
    assert job.status == status


def test_waiting_ends_with_where_the_job_stands_when_the_time_is_over():
    with pytest.raises(WaitTimeoutError, match=r"idx_1 is running \(25.0 %\) after 0 s") as caught:
        drive(wait_for_job("idx_1", on_progress=None, timeout_s=0), [job_answer("running", 1)])
    assert caught.value.job.progress.processed_images == 1


def test_waiting_survives_a_service_that_restarts():
    job, _ = drive(
        wait_for_job("idx_1", on_progress=None, timeout_s=None),
        [job_answer("running", 1), httpx.ConnectError("refused"), httpx.ReadError("reset"), job_answer("completed", 4)],
    )
    assert job.is_final
