"""The order of the faults."""

import random
from collections import Counter

import pytest

from clip_pipeline_tests.campaign.rotation import rounds

KINDS = ("worker_killed", "worker_frozen", "daemon_killed", "api_killed", "disk_full")


def order(seed, faults=103, pairs=0.3):
    return list(rounds(KINDS, faults=faults, rng=random.Random(seed), pairs=pairs))


def test_the_same_seed_gives_the_same_faults_and_another_one_others():
    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("faults", [1, 2, 5, 103])
def test_there_are_as_many_faults_as_were_asked_for(faults):
    assert sum(len(kinds) for kinds in order(1, faults)) == faults


def test_every_kind_gets_its_share():
    counts = Counter(kind for kinds in order(3) for kind in kinds)
    assert set(counts) == set(KINDS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_pairs_are_of_two_different_things():
    pairs = [kinds for kinds in order(4, pairs=1.0) if len(kinds) == 2]
    assert pairs
    assert {"worker_killed", "worker_frozen"} not in [set(pair) for pair in pairs]
    assert all(first != second for first, second in pairs)


def test_without_pairs_faults_come_one_at_a_time():
    assert {len(kinds) for kinds in order(5, pairs=0.0)} == {1}
