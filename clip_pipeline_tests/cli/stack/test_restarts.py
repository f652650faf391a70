"""The decision to start a dead program again."""

import signal

import pytest

from clip_pipeline.cli.stack.restarts import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_CRASHES, MAX_KILLS, CrashHistory


def test_pauses_double_up_to_the_longest():
    history = CrashHistory()
    pauses = [history.note(-signal.SIGKILL, now=float(i)) for i in range(8)]
    assert pauses[:4] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S


def test_five_crashes_within_a_minute_are_enough_and_five_in_two_minutes_are_not():
    quick, slow = CrashHistory(), CrashHistory()
    assert [quick.note(1, now=10.0 * i) for i in range(MAX_CRASHES)][-1] is None
    assert None not in [slow.note(1, now=30.0 * i) for i in range(3 * MAX_CRASHES)]


def test_being_killed_from_outside_counts_for_less():
    history = CrashHistory()
    notes = [history.note(-signal.SIGKILL, now=float(i)) for i in range(MAX_KILLS)]
    assert notes.index(None) == MAX_KILLS - 1


@pytest.mark.parametrize(("status", "is_given_up"), [(3, True), (1, False), (0, False)])
def test_a_wrong_configuration_is_hopeless_at_once(status, is_given_up):
    assert (CrashHistory().note(status, now=0.0) is None) == is_given_up
