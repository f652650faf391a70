"""The loop of the lane: claim, work, record, until no request came for a while. Knows nothing of images or Dagster.

While one micro-batch is worked on, the next is claimed and its images are decoded. Every claim is a lease that this
run renews; what it holds when it dies is claimed again by another.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from clip_pipeline.defs.lane.tally import Tally
from clip_pipeline.ledger.analysis_queue import (
    Claimed,
    Completed,
    Failed,
    claim,
    complete,
    fail,
    give_back,
    renew,
)
from clip_pipeline.ledger.database import Ledger

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How the lane works. most: requests of one micro-batch. lease_s: renewed three times before it runs out.

    idle_s: without a request for so long, the run ends. poll_s: between two looks at an empty queue.
    """

    most: int = 16
    lease_s: float = 30.0
    idle_s: float = 60.0
    poll_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of a micro-batch. reused: answers for which no image had to be encoded."""

    completed: Sequence[Completed]
    failed: Sequence[Failed]
    reused: int


class Answerer(Protocol):
    """Makes the answers: the real one encodes images."""

    def prefetch(self, claimed: Sequence[Claimed]) -> None:
        """Begin what can be begun without the encoder."""
        ...

    def answer(self, claimed: Sequence[Claimed]) -> Outcomes:
        """An outcome for each request."""
        ...


def run_lane(ledger: Ledger, answerer: Answerer, *, owner: str, pace: Pace, observe: Callable[[Tally], None]) -> Tally:
    """Work until no request came for `pace.idle_s`; returns what was done. `observe` is told after each micro-batch.

    However it ends, short of being killed, its leases are given back.
    """
    tally = Tally()
    try:
        with _renewing(ledger, owner, lease_s=pace.lease_s):
            for claimed in _micro_batches(ledger, answerer, owner=owner, pace=pace):
                _work(ledger, answerer, claimed, owner=owner, tally=tally)
                observe(tally)
    finally:
        give_back(ledger, owner)
    return tally


def _micro_batches(
    ledger: Ledger, answerer: Answerer, *, owner: str, pace: Pace
) -> Generator[list[Claimed], None, None]:
    """What to work on next, the batch after it claimed and being decoded already; ends when the lane was idle."""
    ahead: list[Claimed] = []
    busy_at = time.monotonic()
    while True:
        current = ahead or _claim(ledger, answerer, owner=owner, pace=pace)
        if current:
            # Nothing more for a run that holds a suspect: the ledger gives it nothing until that is done.
            ahead = _claim(ledger, answerer, owner=owner, pace=pace)
            yield current
            busy_at = time.monotonic()
        elif time.monotonic() - busy_at >= pace.idle_s:
            return
        else:
            time.sleep(pace.poll_s)


def _claim(ledger: Ledger, answerer: Answerer, *, owner: str, pace: Pace) -> list[Claimed]:
    claimed = claim(ledger, owner=owner, most=pace.most, lease_s=pace.lease_s, now=time.time())
    if claimed:
        answerer.prefetch(claimed)
    return claimed


def _work(ledger: Ledger, answerer: Answerer, claimed: Sequence[Claimed], *, owner: str, tally: Tally) -> None:
    began = time.perf_counter()
    with structlog.contextvars.bound_contextvars(request_ids=[request.request_id for request in claimed]):
        outcomes = answerer.answer(claimed)
        # Those whose lease ran out meanwhile are another run's by now: what was found here is dropped.
        ended = complete(ledger, owner, outcomes.completed) | fail(ledger, owner, outcomes.failed)
        seconds = time.perf_counter() - began
        tally.add(claimed, outcomes.failed, ended=ended, reused=outcomes.reused, seconds=seconds)
        numbers = {"requests": len(ended), "failed": len(outcomes.failed), "seconds": round(seconds, 3)}
        logger.info("uploads analyzed", extra=numbers)


@contextmanager
def _renewing(ledger: Ledger, owner: str, *, lease_s: float) -> Generator[None, None, None]:
    """Renew every lease of `owner` from a thread of its own: one forward pass may outlast a lease."""
    stopped = threading.Event()

    def renew_until_stopped() -> None:
        while not stopped.wait(lease_s / 3):
            renew(ledger, owner, lease_s=lease_s, now=time.time())

    thread = threading.Thread(target=renew_until_stopped, name="renew-leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
