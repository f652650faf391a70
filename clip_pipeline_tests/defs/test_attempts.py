"""When work is requested again, and when it is given up."""

import pytest

from clip_pipeline.defs.attempts import (
    FIRST_PAUSE_S,
    MAX_ATTEMPTS,
    PAUSE_FACTOR,
    RETRY_PATIENCE_S,
    PastRun,
    Verdict,
    decide,
)


def run(*, ended: float | None = 0.0, ok: bool = False, canceled: bool = False, retry: bool = False) -> PastRun:
    return PastRun("r", ok, canceled, ended, is_retry=retry)


LONG_AFTER = FIRST_PAUSE_S * PAUSE_FACTOR**MAX_ATTEMPTS + 1


@pytest.mark.parametrize(
    ("past", "now", "verdict", "attempt"),
    [
        ([], 0.0, Verdict.REQUEST, 1),
        ([run(ended=None)], 0.0, Verdict.UNDER_WAY, 0),
        ([run(ok=True)], LONG_AFTER, Verdict.DONE, 0),
        ([run(canceled=True)], LONG_AFTER, Verdict.CANCELED, 0),
        ([run()], FIRST_PAUSE_S - 1, Verdict.PAUSED, 1),
        ([run()], FIRST_PAUSE_S + 1, Verdict.REQUEST, 2),
        ([run(), run(retry=True), run(retry=True)], FIRST_PAUSE_S + 1, Verdict.REQUEST, 2),
        ([run()] * MAX_ATTEMPTS, LONG_AFTER, Verdict.GIVEN_UP, MAX_ATTEMPTS),
        ([run(ended=5.0, ok=True), run(ended=1.0)], LONG_AFTER, Verdict.DONE, 0),
    ],
)
def test_the_verdict_follows_from_the_runs_behind_it(past: list[PastRun], now: float, verdict: Verdict, attempt: int):
    decision = decide(past, now=now)
    assert (decision.verdict, decision.attempt) == (verdict, attempt)


def test_an_announced_retry_is_waited_for_but_not_for_ever():
    """A daemon killed between a failure and its retry never makes the retry."""
    past = [PastRun("r", False, False, 0.0, awaits_retry=True)]
    assert decide(past, now=1.0).verdict is Verdict.UNDER_WAY
    assert decide(past, now=RETRY_PATIENCE_S + 1).verdict is Verdict.REQUEST


@pytest.mark.parametrize("awaits_retry", [False, True])
def test_an_end_an_hour_from_now_by_the_clock_of_a_worker_holds_nothing_up(awaits_retry: bool):
    """The work of a run that failed while its worker's clock was ahead stood still until the others' got there."""
    past = [PastRun("r", False, False, 3600.0, awaits_retry=awaits_retry)]
    assert decide(past, now=0.0).verdict is Verdict.REQUEST


def test_pauses_grow():
    pauses = [FIRST_PAUSE_S * PAUSE_FACTOR**n for n in range(MAX_ATTEMPTS - 1)]
    for attempts, pause in enumerate(pauses, start=1):
        past = [run()] * attempts
        assert decide(past, now=pause - 1).verdict is Verdict.PAUSED
        assert decide(past, now=pause + 1).verdict is Verdict.REQUEST
