"""Who gives way: a run's own process does, any other process that executes a run does not."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from clip_pipeline.defs.priority import NICENESS, give_way


def niceness_afterwards() -> int:
    give_way()
    give_way()
    return os.nice(0)


def test_a_process_started_for_a_run_gives_way_and_no_further_when_asked_again():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(niceness_afterwards).result(timeout=60) == max(NICENESS, os.nice(0))


def test_a_process_that_executes_a_run_beside_other_work_keeps_its_priority():
    before = os.nice(0)
    assert niceness_afterwards() == before
