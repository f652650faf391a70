"""The queue of analysis requests: who gets what, whose result counts, and who is blamed for a dead run."""

import pytest

from clip_pipeline.ledger.analysis_lookup import analysis_of
from clip_pipeline.ledger.analysis_queue import (
    Failed,
    Waiting,
    complete,
    deliver_again,
    fail,
    give_back,
    lease_owners,
    mark_delivered,
    release_leases_of,
    renew,
    undelivered,
    waiting,
)
from clip_pipeline.ledger.analysis_requests import delete_analysis, submit_analysis
from clip_pipeline_tests.ledger.analyses import LEASE_S, NOW, TRUNCATED, done, submit, take, upload

LATER = NOW + LEASE_S


def seqs(claimed):
    return [one.seq for one in claimed]


def states(ledger, ids):
    return [analysis_of(ledger, request_id).state.value for request_id in ids]


def test_requests_are_claimed_in_the_order_of_submission_and_none_twice(ledger):
    submit(ledger, 5)
    assert seqs(take(ledger, "a", most=2)) == [1, 2]
    assert seqs(take(ledger, "b", most=2)) == [3, 4]
    assert seqs(take(ledger, "a", most=2)) == [5]
    assert take(ledger, "b") == []
    assert lease_owners(ledger) == {"a": 3, "b": 2}


def test_a_claim_hands_over_what_was_submitted(ledger):
    new = upload("猫", labels=("猫", "собака"))
    request_id = submit_analysis(ledger, new)
    (claimed,) = take(ledger)
    assert (claimed.request_id, claimed.sha256, claimed.filename) == (request_id, new.sha256, "猫.png")
    assert (claimed.format, claimed.width, claimed.height, claimed.size_bytes) == ("PNG", 4, 3, 101)
    assert (claimed.labels, claimed.label_set, claimed.top_k, claimed.attempts) == (("猫", "собака"), None, 2, 1)


def test_a_result_is_recorded_once_and_ends_the_lease(ledger):
    first, second = submit(ledger, 2)
    take(ledger)
    assert complete(ledger, "run", [done(1)]) == {1}
    assert fail(ledger, "run", [Failed(2, TRUNCATED)]) == {2}
    assert complete(ledger, "run", [done(1), done(2)]) == set()
    ended, failed = analysis_of(ledger, first), analysis_of(ledger, second)
    assert (ended.state, ended.result_json, ended.processing_time_ms) == ("completed", '{"seq": 1}', 41.5)
    assert (failed.state, failed.reason, failed.result_json) == ("failed", "truncated", None)
    assert ended.completed_at is not None
    assert ended.submitted_at <= str(ended.started_at) <= ended.completed_at == ended.updated_at
    assert lease_owners(ledger) == {}
    assert take(ledger, now=LATER) == []


def test_a_lease_that_ran_out_is_claimed_again_and_the_late_result_of_its_run_is_dropped(ledger):
    (request_id,) = submit(ledger, 1)
    take(ledger, "late")
    assert take(ledger, "other", now=LATER - 0.1) == []
    (again,) = take(ledger, "other", now=LATER)
    assert again.attempts == 2
    assert complete(ledger, "late", [done(1)]) == set()
    assert renew(ledger, "late", lease_s=LEASE_S, now=LATER) == 0
    assert states(ledger, [request_id]) == ["processing"]
    assert complete(ledger, "other", [done(1)]) == {1}


def test_a_late_result_counts_while_nobody_else_has_claimed_the_request(ledger):
    submit(ledger, 1)
    take(ledger, "late")
    assert take(ledger, "late", now=LATER + 1) == []
    assert complete(ledger, "late", [done(1)]) == {1}


def test_renewing_keeps_every_lease_of_the_owner(ledger):
    submit(ledger, 3)
    take(ledger, "a", most=2)
    assert renew(ledger, "a", lease_s=LEASE_S, now=NOW + 20) == 2
    assert seqs(take(ledger, "b", now=NOW + 20 + LEASE_S - 1)) == [3]


def test_a_second_claim_extends_the_first_so_that_all_leases_of_a_run_end_together(ledger):
    submit(ledger, 2)
    take(ledger, "a", most=1)
    take(ledger, "a", most=1, now=NOW + 20)
    assert take(ledger, "b", now=NOW + LEASE_S + 1) == []
    assert seqs(take(ledger, "b", now=NOW + 20 + LEASE_S)) == [1]
    assert lease_owners(ledger) == {"b": 1}


def test_what_a_dead_run_worked_on_is_claimed_alone_and_before_anything_newer(ledger):
    submit(ledger, 3)
    take(ledger, "dead")
    submit(ledger, 2)
    for seq in (1, 2, 3):
        assert seqs(take(ledger, "next", now=LATER)) == [seq]
        # Not even more work beside it: if the run dies now, it is known why.
        assert take(ledger, "next", now=LATER) == []
        assert complete(ledger, "next", [done(seq)]) == {seq}
    assert seqs(take(ledger, "next", now=LATER)) == [4, 5]


def test_a_run_that_has_work_finishes_it_before_it_gets_a_suspect(ledger):
    submit(ledger, 2)
    take(ledger, "dead", most=1)
    take(ledger, "busy", most=1)
    submit(ledger, 1)
    assert take(ledger, "busy", now=LATER) == []
    complete(ledger, "busy", [done(2)])
    assert seqs(take(ledger, "busy", now=LATER)) == [1]
    assert seqs(take(ledger, "idle", now=LATER)) == [3]


def test_a_request_that_kills_its_run_twice_while_alone_fails_and_its_neighbours_do_not(ledger):
    ids = submit(ledger, 4)
    killer, runs = 3, 0
    while (runs := runs + 1) < 20:
        owner = f"run {runs}"
        while claimed := take(ledger, owner):
            if killer in seqs(claimed):
                break
            complete(ledger, owner, [done(seq) for seq in seqs(claimed)])
        if not lease_owners(ledger):
            break
        assert release_leases_of(ledger, [owner]) == len(claimed)
    assert states(ledger, ids) == ["completed", "completed", "failed", "completed"]
    assert analysis_of(ledger, ids[2]).reason == (
        "killed-its-run: it killed its run twice while the run worked on nothing else"
    )
    # Once with its neighbours, where nobody could tell, then twice alone; the fourth run found the rest.
    assert (runs, analysis_of(ledger, ids[2]).attempts) == (4, 3)


def test_a_request_that_was_alone_the_first_time_fails_after_two_deaths(ledger):
    (request_id,) = submit(ledger, 1)
    take(ledger, "a")
    take(ledger, "b", now=LATER)
    assert take(ledger, "c", now=LATER + LEASE_S) == []
    assert states(ledger, [request_id]) == ["failed"]
    assert waiting(ledger) == Waiting(0, 0, None, None)


def test_a_request_beside_one_that_was_claimed_ahead_is_not_blamed(ledger):
    submit(ledger, 2)
    take(ledger, "a", most=1)
    take(ledger, "a", most=1)
    release_leases_of(ledger, ["a"])
    take(ledger, "b")
    release_leases_of(ledger, ["b"])
    assert seqs(take(ledger, "c")) == [1]


def test_a_run_that_ends_in_good_order_leaves_no_suspects(ledger):
    submit(ledger, 3)
    take(ledger, "a")
    assert give_back(ledger, "a") == 3
    assert give_back(ledger, "a") == 0
    assert seqs(take(ledger, "b")) == [1, 2, 3]


def test_only_leases_of_the_named_owners_are_released(ledger):
    submit(ledger, 2)
    take(ledger, "a", most=1)
    take(ledger, "b", most=1)
    assert release_leases_of(ledger, ["b", "unknown"]) == 1
    assert release_leases_of(ledger, []) == 0
    assert lease_owners(ledger) == {"a": 1}


def test_the_result_of_a_request_deleted_meanwhile_is_dropped(ledger):
    first, second = submit(ledger, 2)
    take(ledger)
    delete_analysis(ledger, first)
    assert complete(ledger, "run", [done(1), done(2)]) == {2}
    assert states(ledger, [second]) == ["completed"]


def test_what_waits_is_counted_with_the_oldest_that_nobody_works_on(ledger):
    assert waiting(ledger) == Waiting(0, 0, None, None)
    ids = submit(ledger, 3)
    take(ledger, most=1)
    assert waiting(ledger) == Waiting(2, 1, analysis_of(ledger, ids[1]).submitted_at, 2)


def test_finished_requests_from_kafka_are_told_until_they_are_delivered(ledger):
    submit(ledger, 1)
    ids = submit(ledger, 3, source="kafka")
    take(ledger)
    assert undelivered(ledger, most=10) == []
    complete(ledger, "run", [done(1), done(2), done(4)])
    fail(ledger, "run", [Failed(3, TRUNCATED)])
    told = undelivered(ledger, most=10)
    assert [(one.seq, one.request_id, one.state.value, one.result_json, one.reason) for one in told] == [
        (2, ids[0], "completed", '{"seq": 2}', None),
        (3, ids[1], "failed", None, "truncated"),
        (4, ids[2], "completed", '{"seq": 4}', None),
    ]
    mark_delivered(ledger, [2, 4])
    assert seqs(undelivered(ledger, most=10)) == [3]


def test_a_result_is_told_again_only_if_it_was_told(ledger):
    ids = submit(ledger, 2, source="kafka")
    take(ledger)
    complete(ledger, "run", [done(1)])
    mark_delivered(ledger, [1])
    for request_id in (*ids, "unknown"):
        deliver_again(ledger, request_id)
    assert seqs(undelivered(ledger, most=10)) == [1]


@pytest.mark.parametrize("call", [complete, fail])
def test_nothing_ends_where_nothing_is_given(ledger, call):
    assert call(ledger, "run", []) == set()
