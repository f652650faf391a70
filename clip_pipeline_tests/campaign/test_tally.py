"""The table of a campaign, and what counts as a retry elsewhere."""

import json

from clip_pipeline_tests.campaign.runs import Retries, Run, count_retries, unended
from clip_pipeline_tests.campaign.tally import Round, Row, Tally, rounds_of, rows


def one_round(*kinds, recovery_s: float | None = 10.0, retries=0, elsewhere=0, violations=()):
    return Round(kinds, ("",) * len(kinds), 2.0, recovery_s, 4, retries, retries, elsewhere, violations)


ROUNDS = [
    one_round("worker_killed", recovery_s=10.0, retries=1, elsewhere=1),
    one_round("worker_killed", recovery_s=20.0),
    one_round("worker_killed", "api_killed", recovery_s=90.0, retries=2),
    one_round("disk_full", recovery_s=None, violations=("lost",)),
]


def test_a_row_has_the_median_of_faults_that_came_alone_and_the_longest_of_all():
    assert rows(ROUNDS) == [
        Row("api_killed", 1, 1, None, 90.0, 2, 0),
        Row("disk_full", 1, 0, None, None, 0, 0),
        Row("worker_killed", 3, 1, 15.0, 90.0, 3, 1),
    ]


def test_faults_are_counted_one_by_one_and_violations_wherever_they_were_found():
    tally = Tally(ROUNDS, ["an image is missing"])
    assert (tally.faults, tally.longest_s) == (5, 90.0)
    assert tally.all_violations == ["lost", "an image is missing"]
    assert Tally().longest_s is None


def test_a_report_that_was_written_gives_its_rounds_again():
    written = json.loads(json.dumps(Tally(ROUNDS).document()))
    assert rounds_of(written) == ROUNDS
    assert written["retries"] == 3


def test_a_round_says_what_it_hit_and_whether_all_was_well_again():
    assert one_round("api_killed").describe() == "api_killed: held 2.0 s, recovered in 10.0 s, 0 retries"
    assert "NOT RECOVERED" in ROUNDS[3].describe()
    assert "2 retries, 1 on the other worker" in one_round("api_killed", retries=2, elsewhere=1).describe()


def test_a_retry_counts_as_elsewhere_where_both_runs_had_a_worker_and_not_the_same():
    runs = [
        Run("a", "FAILURE", "embed_images", "one:1", None),
        Run("b", "FAILURE", "embed_images", "two:1", "a"),
        Run("c", "SUCCESS", "embed_images", "two:1", "b"),
        Run("d", "FAILURE", "inspect_images", None, None),
        Run("e", "SUCCESS", "inspect_images", None, "d"),
        Run("f", "SUCCESS", "merge_index", None, "not among them"),
    ]
    assert count_retries(runs) == Retries(all=4, of_workers=2, elsewhere=1)


def test_a_run_that_waits_or_works_has_not_ended():
    runs = [Run("a", "SUCCESS", "j", None, None), Run("b", "QUEUED", "j", None, None)]
    assert unended(runs) == ["run b of j is QUEUED"]
