"""The loop of the intake over a source that does as it is told: what is committed, when, and what is tried again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pipeline.core.errors import ConflictError, StoreError
from clip_pipeline.serving.kafka.intake import Intake, IntakeSettings, is_full, offsets_to_commit
from clip_pipeline.serving.kafka.messages import Partition, PoisonError, Received

ONE, TWO = Partition("uploads", 1), Partition("uploads", 2)


class Script:
    """A source, a ledger and a dead letter topic in one; `log` is what happened, in order."""

    def __init__(self):
        self.queue, self.log, self.revoked = [], [], set()
        self.backlog, self.now = 0, 0.0
        self.failing, self.poison, self.is_dlq_up = set(), {}, True
        self.is_paused = False

    def put(self, *offsets, partition=ONE):
        self.queue += [Received(partition, offset, b"k%d" % offset, b"v") for offset in offsets]

    def receive(self, most, *, timeout_s):
        self.now += timeout_s
        if self.is_paused:
            return []
        received, self.queue = self.queue[:most], self.queue[most:]
        return received

    def take_revoked(self):
        revoked, self.revoked = self.revoked, set()
        return revoked

    def commit(self, next_offsets):
        self.log += [("commit", partition.number, offset) for partition, offset in next_offsets.items()]

    def pause(self):
        self.is_paused = True
        self.log.append("pause")

    def resume(self):
        self.is_paused = False
        self.log.append("resume")

    def accept(self, message):
        if message.offset in self.failing:
            raise StoreError("the database is down")
        if message.offset in self.poison:
            raise self.poison[message.offset]
        self.log.append(("durable", message.partition.number, message.offset))

    def send(self, messages):
        self.log += [("dead", dict(message.headers)["reason"].decode()) for message in messages if self.is_dlq_up]
        return [self.is_dlq_up] * len(messages)

    def intake(self, **settings):
        return Intake(
            self, IntakeSettings("dlq", **({"max_backlog": 10} | settings)), accept=self.accept, send=self.send,
            backlog=lambda: self.backlog, clock=lambda: self.now,
        )  # fmt: skip

    def durable(self):
        return [entry[2] for entry in self.log if entry[0] == "durable"]

    def commits(self):
        return [entry for entry in self.log if entry[0] == "commit"]


@pytest.fixture
def script():
    return Script()


def test_offsets_are_committed_after_the_requests_are_durable(script):
    script.put(4, 5, 6)
    assert script.intake().step() == 3
    assert script.log == [("durable", 1, 4), ("durable", 1, 5), ("durable", 1, 6), ("commit", 1, 7)]


def test_poison_is_written_to_the_dead_letters_before_its_offset_is_committed(script):
    script.put(1, 2, 3)
    script.poison = {2: PoisonError("no key"), 3: ConflictError("another upload")}
    assert script.intake().step() == 3
    assert script.log == [("durable", 1, 1), ("dead", "no key"), ("dead", "another upload"), ("commit", 1, 4)]


def test_while_the_broker_takes_no_dead_letter_nothing_behind_it_is_committed(script):
    script.put(1, 2, 3)
    script.poison, script.is_dlq_up = {2: PoisonError("no key")}, False
    intake = script.intake()
    intake.step()
    assert script.commits() == [("commit", 1, 2)]
    script.is_dlq_up = True
    rounds_until(intake, lambda: ("dead", "no key") in script.log)
    script.put(4)
    rounds_until(intake, lambda: ("commit", 1, 5) in script.log)
    assert script.durable() == [1, 3, 4]


def test_while_the_database_is_down_nothing_is_committed_or_fetched_and_then_all_is_taken_in_once(script):
    script.put(1, 2, 3, 4)
    script.failing = {2, 3}
    intake = script.intake(most=3)
    for _ in range(50):
        intake.step()
    assert script.commits() == [("commit", 1, 2)]
    assert script.is_paused
    script.failing = set()
    rounds_until(intake, lambda: ("commit", 1, 5) in script.log)
    assert script.durable() == [1, 2, 3, 4]
    assert not script.is_paused


def test_waits_between_attempts_grow_but_do_not_exceed_15_s(script):
    script.put(1)
    script.failing = {1}
    attempts = []
    accept = script.accept
    script.accept = lambda message: (attempts.append(script.now), accept(message))
    intake = script.intake()
    while script.now < 200:
        intake.step()
    gaps = [after - before for before, after in pairwise(attempts)]
    assert gaps == sorted(gaps)
    assert gaps[0] <= 1
    assert 14 <= gaps[-1] <= 16


def test_a_round_that_takes_long_ends_early_and_commits_what_it_did(script):
    script.put(*range(10))
    accept = script.accept

    def slowly(message):
        script.now += 2.0
        accept(message)

    script.accept = slowly
    intake = script.intake()
    assert intake.step() == 3
    assert script.commits() == [("commit", 1, 3)]
    rounds_until(intake, lambda: ("commit", 1, 10) in script.log)
    assert script.durable() == list(range(10))


def test_messages_of_a_revoked_partition_are_forgotten_and_others_kept(script):
    script.put(1, partition=ONE)
    script.put(8, partition=TWO)
    script.failing = {1, 8}
    intake = script.intake()
    intake.step()
    script.revoked, script.failing = {ONE}, set()
    rounds_until(intake, lambda: script.commits() != [])
    assert script.log[1:] == [("durable", 2, 8), ("commit", 2, 9)]


def test_a_long_backlog_pauses_and_below_half_of_it_resumes(script):
    script.backlog = 11
    intake = script.intake()
    script.put(1)
    for backlog, paused in ((11, True), (10, True), (5, True), (4, False), (10, False), (11, True)):
        script.backlog = backlog
        for _ in range(4):
            intake.step()
        assert intake.is_paused is script.is_paused is paused, backlog
    assert script.durable() == [1]


def test_a_backlog_that_cannot_be_read_stops_nothing(script):
    def refuse():
        raise StoreError("the database is down")

    intake = Intake(
        script, IntakeSettings("dlq", max_backlog=10), accept=script.accept, send=script.send, backlog=refuse,
        clock=lambda: script.now,
    )  # fmt: skip
    script.put(1)
    assert intake.step() == 1


def test_a_limit_of_one_request_resumes_once_nothing_waits():
    assert is_full(False, 2, most=1)
    assert is_full(True, 1, most=1)
    assert not is_full(True, 0, most=1)


@given(
    received=st.lists(st.sampled_from([ONE, TWO]), max_size=12),
    left=st.sets(st.integers(0, 11)),
    base=st.integers(0, 9),
)
def test_what_is_committed_is_the_longest_settled_beginning_of_each_partition(received, left, base):
    messages, ends = [], {ONE: base, TWO: base}
    for partition in received:
        messages.append(Received(partition, ends[partition], None, None))
        ends[partition] += 1
    unsettled = [message for number, message in enumerate(messages) if number in left]
    found = offsets_to_commit(messages, unsettled=unsettled)
    for partition in (ONE, TWO):
        offset = base
        while any(m.partition == partition and m.offset == offset and m not in unsettled for m in messages):
            offset += 1
        assert found.get(partition, base) == offset


def rounds_until(intake, condition):
    for _ in range(100):
        intake.step()
        if condition():
            return
    raise AssertionError("not within 100 rounds")
