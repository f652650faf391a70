"""Where the time of an embedding run goes, told by the events that Dagster keeps of it and by what the run reports.

The embedding loop ends with an observation and states its own seconds on the materialization that follows, so that
everything before and after it is known to the millisecond.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOOP = "loop"
STAGES = ("queue", "launch", "prepare", "load", LOOP, "seal", "record", "between", "finish")
"""queue: until it is taken out; launch: until its process, having imported Dagster and the definitions, begins it;
prepare: until its step begins; load: torch, the encoder, the manifest, until the loop begins; loop: decoding and
forward passes; seal: writing and checking the vectors; record: ledger, contact sheet, materialization; between:
batches of one run; finish: until the run has ended."""


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """One batch of a run. decoded_at: when its loop had ended; logged_at: its materialization; Unix seconds."""

    images: int
    loop_s: float
    seal_s: float
    decoded_at: float
    logged_at: float


@dataclass(frozen=True, slots=True)
class RunTimes:
    """When each part of a run began or ended, in Unix seconds; batches in the order in which they were embedded."""

    run_id: str
    worker: str
    queued_at: float
    taken_at: float
    started_at: float
    step_at: float
    ended_at: float
    batches: Sequence[EmbeddedBatch]

    @property
    def images(self) -> int:
        """Of all its batches."""
        return sum(batch.images for batch in self.batches)

    @property
    def seconds(self) -> float:
        """From being queued to having ended."""
        return self.ended_at - self.queued_at

    def stages(self) -> dict[str, float]:
        """Seconds of each of `STAGES`; together they are `seconds`."""
        firsts = [batch.decoded_at - batch.loop_s for batch in self.batches]
        return {
            "queue": self.taken_at - self.queued_at,
            "launch": self.started_at - self.taken_at,
            "prepare": self.step_at - self.started_at,
            "load": firsts[0] - self.step_at,
            LOOP: sum(batch.loop_s for batch in self.batches),
            "seal": sum(batch.seal_s for batch in self.batches),
            "record": sum(batch.logged_at - batch.decoded_at - batch.seal_s for batch in self.batches),
            "between": sum(
                first - batch.logged_at for batch, first in zip(self.batches, firsts[1:], strict=False)
            ),
            "finish": self.ended_at - self.batches[-1].logged_at,
        }  # fmt: skip


def run_times(run_id: str, worker: str, events: Sequence[Mapping[str, Any]]) -> RunTimes:
    """The times of a run that succeeded. events: all of them, as Dagster's GraphQL API gives them."""
    times: dict[str, float] = {}
    decoded: dict[str, float] = {}
    batches: list[EmbeddedBatch] = []
    for event in events:
        kind, at = event["__typename"], float(event.get("timestamp", 0)) / 1000
        if kind == "ObservationEvent":
            decoded[event["partition"]] = at
        elif kind == "MaterializationEvent":
            batches.append(_batch(_numbers(event), decoded_at=decoded[event["partition"]], logged_at=at))
        else:
            times[kind] = at  # the last counts: a run that found no worker was queued more than once
    return RunTimes(
        run_id, worker, times["RunEnqueuedEvent"], times["RunStartingEvent"], times["RunStartEvent"],
        times["ExecutionStepStartEvent"], times["RunSuccessEvent"], batches,
    )  # fmt: skip


def gaps_s(runs: Sequence[RunTimes]) -> list[float]:
    """Seconds from the end of a run to the start of the next one on the same worker."""
    gaps: list[float] = []
    ended: dict[str, float] = {}
    for run in sorted(runs, key=lambda run: run.started_at):
        if run.worker in ended:
            gaps.append(run.started_at - ended[run.worker])
        ended[run.worker] = run.ended_at
    return gaps


def _batch(numbers: Mapping[str, float], *, decoded_at: float, logged_at: float) -> EmbeddedBatch:
    loop_s = numbers["forward_s"] + numbers["decode_wait_s"]
    images = int(numbers["images"] + numbers["quarantined"])
    return EmbeddedBatch(images, loop_s, numbers["seconds"] - loop_s, decoded_at, logged_at)


def _numbers(event: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in event["metadataEntries"]:
        value = entry.get("floatValue", entry.get("intValue"))
        if value is not None:
            found[entry["label"]] = float(value)
    return found
