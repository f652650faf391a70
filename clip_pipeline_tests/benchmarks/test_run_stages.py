"""The stages of an embedding run add up to the whole, and say the right thing of each part."""

import pytest

from benchmarks.run_stages import STAGES, gaps_s, run_times


def observation(partition: str, at: float) -> dict:
    return {"__typename": "ObservationEvent", "timestamp": str(1000 * at), "partition": partition,
            "metadataEntries": [{"label": "processed", "intValue": 1}]}  # fmt: skip


def materialization(partition: str, at: float, *, images: int, loop_s: float, seal_s: float) -> dict:
    numbers = {"forward_s": loop_s / 2, "decode_wait_s": loop_s / 2, "seconds": loop_s + seal_s}
    entries = [{"label": label, "floatValue": value} for label, value in numbers.items()]
    entries += [{"label": "images", "intValue": images - 1}, {"label": "quarantined", "intValue": 1}]
    entries += [{"label": "encoder"}]
    return {"__typename": "MaterializationEvent", "timestamp": str(1000 * at), "partition": partition,
            "metadataEntries": entries}  # fmt: skip


def event(kind: str, at: float) -> dict:
    return {"__typename": kind, "timestamp": str(1000 * at)}


def run_of_two_batches(*, start: float = 0.0, worker: str = "w:1"):
    events = [
        event("RunEnqueuedEvent", start),
        event("RunStartingEvent", start + 1),
        event("RunStartEvent", start + 4),
        event("ExecutionStepStartEvent", start + 6),
        observation("b1", start + 11),
        observation("b1", start + 20),
        materialization("b1", start + 22, images=300, loop_s=10, seal_s=1.5),
        observation("b2", start + 29),
        materialization("b2", start + 30, images=200, loop_s=6, seal_s=0.75),
        event("ExecutionStepSuccessEvent", start + 30.5),
        event("RunSuccessEvent", start + 31),
    ]
    return run_times("run", worker, events)


def test_stages_follow_each_other_and_add_up():
    run = run_of_two_batches(start=1_700_000_000)
    stages = run.stages()
    assert tuple(stages) == STAGES
    assert run.images == 500
    assert stages == pytest.approx(
        {"queue": 1, "launch": 3, "prepare": 2, "load": 4, "loop": 16, "seal": 2.25, "record": 0.75, "between": 1,
         "finish": 1}
    )  # fmt: skip
    assert sum(stages.values()) == pytest.approx(run.seconds) == pytest.approx(31)


def test_a_run_that_came_back_to_the_queue_counts_from_the_last_time():
    early = [event("RunEnqueuedEvent", 0), event("RunStartingEvent", 1)]
    rest = [
        event("RunEnqueuedEvent", 10),
        event("RunStartingEvent", 12),
        event("RunStartEvent", 15),
        event("ExecutionStepStartEvent", 16),
        observation("b1", 20),
        materialization("b1", 21, images=10, loop_s=2, seal_s=0.5),
        event("RunSuccessEvent", 22),
    ]
    assert run_times("run", "w:1", early + rest).stages()["queue"] == pytest.approx(2)


def test_gaps_are_between_runs_of_the_same_worker():
    runs = [run_of_two_batches(start=start, worker=worker) for start, worker in ((50, "a"), (0, "a"), (31, "b"))]
    assert gaps_s(runs) == pytest.approx([50 + 4 - 31])
