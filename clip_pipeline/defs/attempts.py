"""When is a piece of work requested again? A pure decision over the runs that were made for it before.

Dagster's own run retries relaunch a run that died, a few times, at once. This decides what happens after that: the
sensors ask again, more and more slowly, then give up with a reason, so that no work is lost to a bad hour and no
poisoned work runs for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

MAX_ATTEMPTS = 6
FIRST_PAUSE_S = 10.0
PAUSE_FACTOR = 3.0

RETRY_PATIENCE_S = 120.0
"""How long a failed run's announced retry is waited for; a daemon killed at the wrong moment never makes it."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run that was made for the work. ended_at: Unix seconds, None while it is going on.

    is_retry: made by Dagster's run retries, not by a sensor. awaits_retry: failed, and its retry is on the way.
    """

    run_id: str
    succeeded: bool
    canceled: bool
    ended_at: float | None
    is_retry: bool = False
    awaits_retry: bool = False


class Verdict(Enum):
    """What to do about the work now."""

    REQUEST = auto()
    UNDER_WAY = auto()
    PAUSED = auto()
    DONE = auto()
    CANCELED = auto()
    GIVEN_UP = auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict, the number of the attempt to request (from 1), and the run that failed last."""

    verdict: Verdict
    attempt: int = 0
    failed_run_id: str | None = None


def decide(past: Sequence[PastRun], *, now: float) -> Decision:
    """What to do about work with these runs behind it; `now` in Unix seconds."""
    if any(_is_under_way(run, now) for run in past):
        return Decision(Verdict.UNDER_WAY)
    attempts = sum(not run.is_retry for run in past)
    if not past:
        return Decision(Verdict.REQUEST, 1)
    last = max(past, key=lambda run: run.ended_at or 0.0)
    if last.succeeded:
        return Decision(Verdict.DONE)
    if last.canceled:
        return Decision(Verdict.CANCELED, failed_run_id=last.run_id)
    if attempts >= MAX_ATTEMPTS:
        return Decision(Verdict.GIVEN_UP, attempts, last.run_id)
    pause_s = FIRST_PAUSE_S * PAUSE_FACTOR ** (attempts - 1)
    if _is_within(pause_s, last.ended_at or 0.0, now):
        return Decision(Verdict.PAUSED, attempts, last.run_id)
    return Decision(Verdict.REQUEST, attempts + 1, last.run_id)


def _is_under_way(run: PastRun, now: float) -> bool:
    return run.ended_at is None or (run.awaits_retry and _is_within(RETRY_PATIENCE_S, run.ended_at, now))


def _is_within(seconds: float, ended_at: float, now: float) -> bool:
    # The end is by the clock of whoever ran it. One that is far ahead would have the work wait until we are there.
    return abs(now - ended_at) < seconds
