"""How long one new image takes to become searchable, through the whole stack: watched folder, daemon, runs, service.

Starts `clip-pipeline up` in a temporary home on free ports, waits until it is ready, then drops one photograph at a
time into the watched folder and asks the search API until it finds it. The first image of a home is not counted: it
pays for the first release and the first load of the encoder. The number that counts runs from the job's registration,
where `submissions` can see it, to the image being found; the time the watched folder takes to notice it is beside it.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from sqlalchemy import select

from benchmarks.photographs import TWO_MEGAPIXELS, ensure_photographs
from benchmarks.report import WORK, console, machine, print_table, progress, publish, verdict
from benchmarks.stack_under_test import Stack, running, temporary_folder, wait_for
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.ledger.jobs import job_counts
from clip_pipeline.ledger.schema import files
from clip_pipeline.serving.orchestrator import RunInfo

GOAL_S = 30.0
IMAGE_TIMEOUT_S = 600.0
_MOST = 1000
_QUERY = "a photograph"


@dataclass(frozen=True, slots=True)
class Journey:
    """One image. Times in Unix seconds; runs oldest first."""

    written: float
    registered: float
    completed: float
    found: float
    runs: Sequence[RunInfo]

    @property
    def latency_s(self) -> float:
        """From being registered to being found."""
        return self.found - self.registered

    def stages(self) -> dict[str, float]:
        """Seconds of each stage, in order; together they are `found - written`."""
        return stage_seconds(self.written, self.registered, self.runs, found=self.found)


def main() -> None:
    """Start, drop, wait, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5, metavar="N", help="images, one after the other (default 5)")
    parser.add_argument("--encoder", default="builtin", metavar="NAME", help="as `clip-pipeline up` takes it (builtin)")
    parser.add_argument("--keep", action="store_true", help="keep the temporary home, with its logs, and say where")
    arguments = parser.parse_args()
    facts = machine()
    photographs = ensure_photographs(WORK / "photographs-2mp", arguments.count + 1, size=TWO_MEGAPIXELS)
    with temporary_folder("latency", keep=arguments.keep) as folder:
        ready_s, journeys = _measure(folder, photographs, encoder=arguments.encoder)
    _report(facts, journeys, ready_s=ready_s, encoder=arguments.encoder)


def stage_seconds(written: float, registered: float, runs: Sequence[RunInfo], *, found: float) -> dict[str, float]:
    """Seconds from each event to the next, by what was being waited for. runs: oldest first, all ended well."""
    stages = {"watched folder notices": registered - written}
    before = registered
    for run in runs:
        name = run.work.partition(":")[0] if ":" in run.work else run.job_name.strip("_")
        started, ended = run.started_at or run.created_at, run.ended_at or run.created_at
        stages[f"{name}: sensor asks"] = run.created_at - before
        stages[f"{name}: process starts"] = started - run.created_at
        stages[f"{name}: run"] = ended - started
        before = ended
    return stages | {"service finds it": found - before}


def _measure(folder: Path, photographs: Sequence[Path], *, encoder: str) -> tuple[float, list[Journey]]:
    journeys: list[Journey] = []
    with progress() as bar:
        task = bar.add_task("Starting the stack", total=len(photographs) + 1)
        with running(folder, encoder=encoder) as stack:
            bar.advance(task)
            for number, photograph in enumerate(photographs):
                bar.update(task, description=f"Image {number}" if number else "First image, not counted")
                journeys.append(_drop(stack, photograph))
                bar.advance(task)
            return stack.ready_s, journeys[1:]


def _drop(stack: Stack, photograph: Path) -> Journey:
    target = stack.watched / photograph.name
    shutil.copyfile(photograph, target)
    written, path = target.stat().st_mtime, path_to_text(target)
    # The ledger is cheap to ask; searches, ten a second for half a minute, would slow down what they wait for.
    wait_for(lambda: _job_of(stack, path) is not None, timeout_s=IMAGE_TIMEOUT_S, what=f"{path} to be registered")
    job_id = _job_of(stack, path) or ""
    wait_for(
        lambda: job_counts(stack.ledger, job_id).completed_at is not None,
        timeout_s=IMAGE_TIMEOUT_S, what=f"job {job_id} to complete",
    )  # fmt: skip
    found = wait_for(
        lambda: path in stack.found_paths(_QUERY, k=_MOST), timeout_s=IMAGE_TIMEOUT_S, what=f"{path} to be found"
    )
    counts = job_counts(stack.ledger, job_id)
    assert counts.completed_at is not None
    # A run that has done its work ends a moment later.
    wait_for(lambda: all(run.ended_at for run in _runs(stack, job_id)), timeout_s=60, what="the last run's end")
    return Journey(written, _unix(counts.created_at), _unix(counts.completed_at), found, _runs(stack, job_id))


def _runs(stack: Stack, job_id: str) -> list[RunInfo]:
    return sorted(stack.orchestrator.runs_of_jobs([job_id])[job_id], key=lambda run: run.created_at)


def _job_of(stack: Stack, path: str) -> str | None:
    with stack.ledger.read() as connection:
        return connection.execute(select(files.c.job_id).where(files.c.path == path)).scalar()


def _unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _report(facts: Mapping[str, object], journeys: Sequence[Journey], *, ready_s: float, encoder: str) -> None:
    latencies = [journey.latency_s for journey in journeys]
    typical = median(latencies)
    stages: dict[str, list[float]] = {}
    for journey in journeys:
        for name, seconds in journey.stages().items():
            stages.setdefault(name, []).append(seconds)
    medians = {name: round(median(values), 2) for name, values in stages.items()}
    publish(
        "latency",
        {
            "machine": facts,
            "encoder": encoder,
            "images": len(journeys),
            "stack_ready_s": round(ready_s, 1),
            "registered_to_found_s": {"median": round(typical, 2), "all": [round(value, 2) for value in latencies]},
            "registered_to_job_completed_s": round(median(j.completed - j.registered for j in journeys), 2),
            "written_to_found_s": round(median(j.found - j.written for j in journeys), 2),
            "median_stage_s": medians,
            "goal_s": GOAL_S,
            "goal_reached": typical <= GOAL_S,
        },
    )
    print_table("From a file to a search result, median of each stage", ("", "seconds"), list(medians.items()))
    line = f"Registered to found: {typical:.1f} s, worst {max(latencies):.1f} s (goal {GOAL_S:g}): "
    console().print(line + verdict(typical <= GOAL_S))


if __name__ == "__main__":
    main()
