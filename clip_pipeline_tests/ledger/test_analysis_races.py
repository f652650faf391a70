"""The queue with many at work on it at once, and with some of them killed: every request ends once."""

import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import event, text

from clip_pipeline.ledger.analysis_lookup import (
    AnalysisMark,
    analysis_mark,
    analysis_stats,
    changed_since,
    recent_analyses,
)
from clip_pipeline.ledger.analysis_queue import (
    Failed,
    complete,
    fail,
    give_back,
    lease_owners,
    release_leases_of,
    renew,
    undelivered,
    waiting,
)
from clip_pipeline.ledger.analysis_requests import delete_analysis, expired_analyses, upload_is_needed
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline_tests.ledger import analyses
from clip_pipeline_tests.ledger.analyses import LEASE_S, NOW, TRUNCATED, digest, done, submit, take

ROOT = Path(__file__).resolve().parents[2]
PARTIAL = ("_waiting", "_leased", "_owned", "_undelivered")
OWNERS = st.sampled_from(["a", "b", "c"])


@pytest.mark.parametrize("most", [1, 7])
def test_threads_that_claim_at_once_share_the_queue_and_nothing_is_claimed_twice(ledger, most):
    submit(ledger, 60)
    together = threading.Barrier(6)

    def drain(number):
        together.wait()
        mine = []
        while claimed := take(ledger, f"run {number}", most=most):
            mine += [one.seq for one in claimed]
            assert complete(ledger, f"run {number}", [done(one.seq) for one in claimed]) == {c.seq for c in claimed}
        return mine

    with ThreadPoolExecutor(6) as pool:
        shares = list(pool.map(drain, range(6)))
    assert sorted(seq for share in shares for seq in share) == list(range(1, 61))
    assert analysis_stats(ledger).completed == 60


def test_leases_that_ran_out_are_taken_back_by_one_of_many_threads_at_once(ledger):
    submit(ledger, 12)
    take(ledger, "dead")
    together = threading.Barrier(6)

    def take_one(number):
        together.wait()
        return [one.seq for one in take(ledger, f"run {number}", now=NOW + LEASE_S)]

    with ThreadPoolExecutor(6) as pool:
        claimed = [share for share in pool.map(take_one, range(6)) if share]
    # Whoever looks while another takes them back may find nothing yet; nobody finds two, or the same.
    assert claimed
    assert {len(share) for share in claimed} == {1}
    assert len({share[0] for share in claimed}) == len(claimed)


def test_workers_killed_at_any_moment_lose_no_request_and_end_none_twice(ledger):
    submit(ledger, 120)
    chance, said = random.Random(5), []
    for number in range(6):
        said += run_worker(ledger, f"run {number}", kill_after=chance.randint(1, 6))
        release_leases_of(ledger, [f"run {number}"])
    said += run_worker(ledger, "run 6", kill_after=None)
    ended = [int(seq) for line in said if line.startswith("ended") for seq in line.split()[1:]]
    assert len(ended) == len(set(ended))
    everything = recent_analyses(ledger, most=1000)
    assert len(everything) == 120
    assert {one.state.value for one in everything} == {"completed", "failed"}
    # A worker killed between its commit and its word about it: ended in the ledger, and not worked on again.
    assert set(ended) <= {one.seq for one in everything}
    for one in everything:
        assert (one.result_json is None) == (one.state == "failed")
        assert one.state == "failed" or one.seq % 5
    assert {one.reason for one in everything if not one.seq % 5} == {"truncated"}
    assert lease_owners(ledger) == {}


def run_worker(ledger, owner, *, kill_after):
    """What a worker process said; killed with SIGKILL once it said `kill_after` lines, or left to finish."""
    url = ledger.engine.url.render_as_string(hide_password=False)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", analyses.__name__, url, owner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        assert worker.stdout is not None
        said = []
        for line in worker.stdout:
            said.append(line)
            if len(said) == kill_after:
                worker.kill()
    assert worker.returncode == (0 if kill_after is None else -signal.SIGKILL)
    return said


class Histories(RuleBasedStateMachine):
    """Runs that claim, end, die, stall and stop in any order; the model is what each was told."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.ledger = open_ledger(url)
        self.now = NOW
        self.ended: dict[int, str] = {}
        self.deleted: set[int] = set()
        self.submitted = 0
        self.told: dict[int, str] = {}
        self.mark = AnalysisMark("2026-01-01T00:00:00.000Z")

    @rule(count=st.integers(1, 4))
    def submit(self, count):
        submit(self.ledger, count)
        self.submitted += count

    @rule(owner=OWNERS, most=st.integers(1, 3))
    def claim(self, owner, most):
        claimed = take(self.ledger, owner, most=most, now=self.now)
        assert not {one.seq for one in claimed} & (self.ended.keys() | self.deleted)
        assert len(claimed) <= most

    @rule(owner=OWNERS, seqs=st.sets(st.integers(1, 12)), call=st.sampled_from(["complete", "fail"]))
    def end(self, owner, seqs, call):
        held = {one.seq for one in self.all() if one.seq in seqs} & self.held_by(owner)
        if call == "complete":
            changed = complete(self.ledger, owner, [done(seq) for seq in seqs])
        else:
            changed = fail(self.ledger, owner, [Failed(seq, TRUNCATED) for seq in seqs])
        assert changed == held
        assert not changed & self.ended.keys()
        self.ended |= dict.fromkeys(changed, {"complete": "completed", "fail": "failed"}[call])

    @rule(seconds=st.sampled_from([1.0, LEASE_S]))
    def pass_time(self, seconds):
        self.now += seconds

    @rule(owner=OWNERS)
    def renew(self, owner):
        held = len(self.held_by(owner))
        assert renew(self.ledger, owner, lease_s=LEASE_S, now=self.now) == held

    @rule(owner=OWNERS)
    def die(self, owner):
        held = len(self.held_by(owner))
        assert release_leases_of(self.ledger, [owner]) == held

    @rule(owner=OWNERS)
    def stop(self, owner):
        held = len(self.held_by(owner))
        assert give_back(self.ledger, owner) == held

    @rule(which=st.integers(0, 11))
    def delete(self, which):
        everything = self.all()
        if which < len(everything):
            delete_analysis(self.ledger, everything[which].request_id)
            self.deleted.add(everything[which].seq)

    @invariant()
    def every_request_is_in_the_state_that_was_told(self):
        everything = {one.seq: one for one in self.all()}
        assert everything.keys() | self.deleted == set(range(1, self.submitted + 1))
        for seq, one in everything.items():
            if one.reason and one.reason.startswith("killed-its-run"):
                self.ended.setdefault(seq, "failed")
            assert (one.state.value == self.ended.get(seq)) == (one.completed_at is not None), one
        changed, self.mark = changed_since(self.ledger, self.mark)
        self.told |= {one.seq: one.state.value for one in changed}
        assert {seq: self.told[seq] for seq in everything} == {s: one.state.value for s, one in everything.items()}
        queue = waiting(self.ledger)
        assert queue.processing == sum(lease_owners(self.ledger).values())
        assert queue.submitted + queue.processing + len(self.ended.keys() - self.deleted) == len(everything)

    def all(self):
        return recent_analyses(self.ledger, most=1000)

    def held_by(self, owner):
        with self.ledger.read() as connection:
            query = text("SELECT seq FROM analysis_requests WHERE lease_owner = :owner")
            return set(connection.execute(query, {"owner": owner}).scalars())

    def teardown(self):
        self.now += LEASE_S
        for _ in range(200):
            claimed = take(self.ledger, "last", now=self.now)
            self.ended |= dict.fromkeys(complete(self.ledger, "last", [done(one.seq) for one in claimed]), "completed")
            if not claimed and not lease_owners(self.ledger):
                break
        assert waiting(self.ledger).submitted == 0
        assert {one.state.value for one in self.all()} <= {"completed", "failed"}
        self.every_request_is_in_the_state_that_was_told()
        self.ledger.close()


def test_every_request_is_in_the_state_that_was_told_whatever_happens(new_ledger_url):
    some = settings(
        max_examples=8, stateful_step_count=25, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow], phases=[Phase.generate],
    )  # fmt: skip
    # Typed as a class; what is done with it is to call it.
    run_state_machine_as_test(lambda: Histories(new_ledger_url()), settings=some)  # pyright: ignore[reportArgumentType]


def test_no_question_asked_again_and_again_scans_the_table(ledger: Ledger):
    """A backlog of a hundred thousand must cost no more than one of ten."""
    (request_id, *_) = submit(ledger, 40)
    statements = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        statements.append((statement, parameters))

    event.listen(ledger.engine, "before_cursor_execute", note)
    take(ledger, "dead", most=3)
    take(ledger, "run", now=NOW + LEASE_S)
    renew(ledger, "run", lease_s=LEASE_S, now=NOW)
    complete(ledger, "run", [done(1)])
    give_back(ledger, "run")
    release_leases_of(ledger, ["dead"])
    waiting(ledger)
    undelivered(ledger, most=10)
    changed_since(ledger, analysis_mark(ledger))
    recent_analyses(ledger, before=20)
    expired_analyses(ledger, "2026-01-01T00:00:00.000Z", most=10)
    upload_is_needed(ledger, digest("cat"))
    delete_analysis(ledger, request_id)
    event.remove(ledger.engine, "before_cursor_execute", note)
    asked = [(s, p) for s, p in statements if s.startswith(("SELECT", "UPDATE", "DELETE"))]
    assert len(asked) >= 20
    with ledger.engine.connect() as connection:
        for statement, parameters in asked:
            faults = FAULTS_OF_PLAN[connection.dialect.name](connection, statement, parameters)
            assert faults == [], statement


def faults_of_sqlite_plan(connection, statement, parameters):
    """Scans of the whole table and sorts. Partial indexes hold only what waits, is leased or undelivered."""
    plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    scans = [step for step in plan if step.startswith("SCAN analysis_requests") and not step.endswith(PARTIAL)]
    return scans + [step for step in plan if "TEMP B-TREE" in step]


def faults_of_postgres_plan(connection, statement, parameters):
    """The same, as PostgreSQL would do it with many rows: forty it reads faster without any index."""
    if "pg_advisory" in statement:
        return []
    for way in ("seqscan", "bitmapscan", "sort"):
        connection.exec_driver_sql(f"SET enable_{way} = off")
    plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
    return [step for step in plan if "Seq Scan on analysis_requests" in step or "Sort Key" in step]


FAULTS_OF_PLAN = {"sqlite": faults_of_sqlite_plan, "postgresql": faults_of_postgres_plan}
