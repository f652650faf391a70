"""The loop of the lane on a real ledger, with an answerer that does as it is told."""

import threading
import time

import pytest

from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.defs.lane.loop import Outcomes, Pace, run_lane
from clip_pipeline.ledger.analysis_lookup import analysis_stats
from clip_pipeline.ledger.analysis_queue import Completed, Failed, claim, lease_owners, waiting
from clip_pipeline_tests.ledger.analyses import submit

QUICK = Pace(most=4, lease_s=30, idle_s=0.05, poll_s=0.01)


class Obedient:
    """Fails every third request, completes the others, and notes what it was given."""

    def __init__(self, before=None):
        self.prefetched, self.answered, self.before = [], [], before

    def prefetch(self, claimed):
        self.prefetched.append([one.seq for one in claimed])

    def answer(self, claimed):
        if self.before is not None:
            self.before(claimed)
        self.answered.append([one.seq for one in claimed])
        good = [Completed(c.seq, "{}", 1.0) for c in claimed if c.seq % 3]
        bad = [Failed(c.seq, Reason(ReasonCode.CORRUPT)) for c in claimed if not c.seq % 3]
        return Outcomes(good, bad, reused=0)


def run(ledger, answerer, *, owner="run", pace=QUICK):
    return run_lane(ledger, answerer, owner=owner, pace=pace, observe=lambda _tally: None)


def test_a_run_ends_when_nothing_came_for_a_while(ledger):
    assert run(ledger, Obedient()).requests == 0


def test_every_request_is_answered_once_in_the_order_of_submission(ledger):
    submit(ledger, 10)
    answerer = Obedient()
    tally = run(ledger, answerer)
    assert [seq for batch in answerer.answered for seq in batch] == list(range(1, 11))
    assert (tally.completed, tally.failed, tally.batches) == (7, 3, 3)
    assert (analysis_stats(ledger).completed, analysis_stats(ledger).failed) == (7, 3)


def test_the_next_micro_batch_is_prefetched_before_the_current_one_is_answered(ledger):
    submit(ledger, 8)
    answerer = Obedient()
    answerer.before = lambda _claimed: seen.append(len(answerer.prefetched))
    seen: list[int] = []
    run(ledger, answerer)
    assert seen == [2, 2]


def test_a_request_that_comes_while_the_run_is_warm_is_answered_by_it(ledger):
    submit(ledger, 1)
    answerer = Obedient(before=lambda _claimed: submit(ledger, 3) if len(answerer.answered) == 0 else None)
    assert run(ledger, answerer).requests >= 2
    assert waiting(ledger).submitted == 0


def test_an_answerer_that_raises_leaves_no_lease_behind_and_nobody_suspect(ledger):
    submit(ledger, 4)

    def break_down(_claimed):
        raise RuntimeError("no encoder")

    with pytest.raises(RuntimeError, match="no encoder"):
        run(ledger, Obedient(before=break_down))
    assert lease_owners(ledger) == {}
    assert len(claim(ledger, owner="next", most=10, lease_s=30, now=time.time())) == 4


def test_leases_are_renewed_while_an_answer_takes_long(ledger):
    submit(ledger, 2)
    pace = Pace(most=4, lease_s=0.3, idle_s=0.05, poll_s=0.01)
    tried: list[int] = []

    def outlast_the_lease(_claimed):
        deadline = time.monotonic() + 3 * pace.lease_s
        while time.monotonic() < deadline:
            tried.append(len(claim(ledger, owner="thief", most=4, lease_s=30, now=time.time())))
            threading.Event().wait(0.02)

    assert run(ledger, Obedient(before=outlast_the_lease), pace=pace).requests == 2
    assert tried
    assert sum(tried) == 0


def test_what_another_run_took_over_meanwhile_is_not_overwritten_and_not_counted(ledger):
    submit(ledger, 1)

    def be_taken_over(_claimed):
        later = time.time() + 1_000
        assert claim(ledger, owner="other", most=4, lease_s=60, now=later)

    tally = run(ledger, Obedient(before=be_taken_over))
    assert tally.requests == 0
    assert lease_owners(ledger).get("other") == 1


def test_latencies_count_from_the_submission(ledger):
    submit(ledger, 3)
    tally = run(ledger, Obedient())
    assert len(tally.latencies_s) == 3
    assert all(0 <= latency < 60 for latency in tally.latencies_s)
    assert {"completed", "failed", "latency_p50_ms", "mean_micro_batch"} <= tally.describe().keys()
