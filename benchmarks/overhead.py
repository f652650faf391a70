"""What orchestration costs an embedding run: the share of its time that is no embedding, and what a pack saves.

A real stack and one real worker with all cores. Jobs of two sizes, one batch and one run each, in turn; Dagster's
events and the run's own figures say where the time of each run went. The stages of both sizes give a cost of each run
and a cost of each image, and from these follows what a batch of 10,000 images costs, at the rate that was measured and
at 2,000 images/s, which no CPU reaches. A larger batch is not embedded for it.

Then small batches, one run each, and five that wait together and share one run.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.fleet import chosen_pictures, encoder_setting, write_copies
from benchmarks.fleet_under_test import FleetUnderTest, fleet_running
from benchmarks.report import console, machine, print_table, progress, publish
from benchmarks.run_stages import LOOP, STAGES, RunTimes
from benchmarks.stack_under_test import temporary_folder

BATCH = 10_000
FAST_IMAGES_PER_S = 2_000.0
PACK, ALONE = 5, 2
WITHOUT_IMAGES = ("queue", "launch", "prepare", "between", "finish")
"""Stages in which no image is looked at: that one took longer with more of them is chance."""


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds that grow with the images: `fixed_s` of each run, `per_image_s` of each image."""

    fixed_s: float
    per_image_s: float


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run costs, by stage; the fixed part of the loop (decode workers, weights) is start-up too."""

    stages: Mapping[str, Line]

    @property
    def images_per_s(self) -> float:
        """Of the loop once it is under way."""
        return 1 / self.stages[LOOP].per_image_s

    def overhead_s(self, *, images: int, batches: int = 1) -> float:
        """Seconds of a run with so many images that are no embedding. What follows the first batch starts warm."""
        of_images = sum(line.per_image_s for name, line in self.stages.items() if name != LOOP)
        of_batches = (batches - 1) * sum(max(0.0, self.stages[name].fixed_s) for name in ("seal", "record"))
        return sum(line.fixed_s for line in self.stages.values()) + images * max(0.0, of_images) + of_batches

    def share(self, *, images: int, images_per_s: float, batches: int = 1) -> float:
        """The part of a run's time that is no embedding, were the loop to run at this rate."""
        overhead_s = self.overhead_s(images=images, batches=batches)
        return overhead_s / (overhead_s + images / images_per_s)


def main() -> None:
    """Start all, do the jobs, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs=2, default=[500, 2_000], metavar="N", help="images (500 2000)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="jobs of each size (2)")
    parser.add_argument("--encoder", default="builtin", metavar="NAME", help="vit-b32 has random weights (builtin)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder of JPEGs to take; else some are made")
    parser.add_argument("--without-packs", action="store_true", help="leave out the packs")
    parser.add_argument("--keep", action="store_true", help="keep the temporary home, with its logs, and say where")
    arguments = parser.parse_args()
    facts = machine()
    with temporary_folder("overhead", keep=arguments.keep) as folder:
        runs, packs = _measure(folder, chosen_pictures(arguments.images), arguments)
    _report(facts, runs, packs, encoder=arguments.encoder)


def costs_of(runs: Sequence[RunTimes]) -> Costs:
    """Line by stage through the medians of two sizes; where images play no part, the median of all runs."""
    small, large = sorted({run.images for run in runs})
    of_small, of_large = median_stages(runs, small), median_stages(runs, large)
    lines = {name: _line(of_small[name], of_large[name], small, large) for name in STAGES}
    return Costs(lines | {name: Line(median(run.stages()[name] for run in runs), 0.0) for name in WITHOUT_IMAGES})


def median_stages(runs: Sequence[RunTimes], images: int) -> dict[str, float]:
    """The median of each stage over the runs of that size, in seconds."""
    stages = [run.stages() for run in runs if run.images == images]
    return {name: median(one[name] for one in stages) for name in STAGES}


def _line(of_small: float, of_large: float, small: int, large: int) -> Line:
    per_image_s = (of_large - of_small) / (large - small)
    return Line(of_small - small * per_image_s, per_image_s)


def _measure(
    folder: Path, pictures: Sequence[Path], arguments: argparse.Namespace
) -> tuple[list[RunTimes], dict[str, list[RunTimes]]]:
    sizes = sorted(arguments.sizes)
    packed = -(-sizes[1] // 10)  # a job with fewer shares its batch with others
    extra = {"CLIP_PIPELINE_BATCH_SIZE": str(sizes[1])}
    runs: list[RunTimes] = []
    packs: dict[str, list[RunTimes]] = {}
    with progress() as bar:
        task = bar.add_task("Starting the stack", total=2 + 2 * arguments.rounds + 2)
        encoder = encoder_setting(arguments.encoder)
        with fleet_running(folder, encoder=encoder, roots=folder, extra=extra, worker={}) as fleet:
            fleet.use([fleet.start_worker(core=None)])
            bar.advance(task)
            copies = _Copies(folder, pictures)
            _jobs(fleet, copies, sizes[0])  # the first of all pays for the first release
            for number in range(arguments.rounds):
                for size in sizes:
                    bar.update(task, description=f"Round {number + 1}, {size} images")
                    runs += _jobs(fleet, copies, size)
                    bar.advance(task)
            if not arguments.without_packs:
                bar.update(task, description="Packs")
                packs["alone"] = [run for _ in range(ALONE) for run in _jobs(fleet, copies, packed)]
                packs["together"] = _jobs(fleet, copies, *[packed] * PACK)
                bar.advance(task, 2)
    return runs, packs


@dataclass(slots=True)
class _Copies:
    folder: Path
    pictures: Sequence[Path]
    made: int = 0

    def write(self, count: int) -> list[Path]:
        self.made += 1
        return write_copies(self.folder / f"job-{self.made}", self.pictures, count=count, mark=str(self.made))


def _jobs(fleet: FleetUnderTest, copies: _Copies, *sizes: int) -> list[RunTimes]:
    """The embedding runs of jobs of these sizes, all inspected before the first of them is asked for."""
    with fleet.embedding_held_back():
        job_ids = [fleet.submit(copies.write(size)) for size in sizes]
        fleet.wait_inspected(sum(sizes), in_batches=len(sizes))
    fleet.wait_complete(job_ids)
    return fleet.embedding_runs(job_ids)


def _report(
    facts: Mapping[str, object], runs: Sequence[RunTimes], packs: Mapping[str, Sequence[RunTimes]], *, encoder: str
) -> None:
    costs = costs_of(runs)
    measured, fast = costs.images_per_s, FAST_IMAGES_PER_S
    sizes = sorted({run.images for run in runs})
    document = {
        "machine": facts,
        "encoder": encoder,
        "runs": {n: sum(run.images == n for run in runs) for n in sizes},
        "median_stage_s": {n: _rounded(median_stages(runs, n)) for n in sizes},
        "fixed_s": _rounded({name: line.fixed_s for name, line in costs.stages.items()}),
        "ms_per_image": _rounded({name: 1000 * line.per_image_s for name, line in costs.stages.items()}),
        "images_per_s": round(measured, 1),
        f"overhead_of_{BATCH}_s": round(costs.overhead_s(images=BATCH), 2),
        f"share_of_{BATCH}": {
            "measured_rate": round(costs.share(images=BATCH, images_per_s=measured), 4),
            f"{fast:g}_per_s": round(costs.share(images=BATCH, images_per_s=fast), 4),
            f"{fast:g}_per_s_in_packs_of_20": round(
                costs.share(images=20 * BATCH, images_per_s=fast, batches=20), 4
            ),
        },
        "packs": _of_packs(packs),
        "load_average_at_end": round(os.getloadavg()[0], 2),
    }  # fmt: skip
    publish("overhead", document)
    rows = [
        (name, *(f"{median_stages(runs, n)[name]:.2f}" for n in sizes), f"{line.fixed_s:.2f}",
         f"{1000 * line.per_image_s:.2f}")
        for name, line in costs.stages.items()
    ]  # fmt: skip
    headers = ("seconds", *(f"{n:,} images" for n in sizes), "each run", "ms each image")
    print_table(f"Where the time of a run goes, {encoder}", headers, rows)
    people = console()
    for rate in (measured, fast):
        share = costs.share(images=BATCH, images_per_s=rate)
        people.print(f"No embedding is {share:.1%} of a run of {BATCH:,} images at {rate:,.0f} images/s")
    if packs:
        found = _of_packs(packs)
        people.print(
            f"{PACK} batches of {found['images']}: {found['alone_s']:.1f} s in runs of their own, "
            f"{found['together_s']:.1f} s in one"
        )


def _of_packs(packs: Mapping[str, Sequence[RunTimes]]) -> dict[str, float]:
    """alone_s: of as many runs as the pack has batches, each as long as the median of those measured."""
    if not packs:
        return {}
    alone, together = packs["alone"], packs["together"]
    return {
        "images": alone[0].images,
        "alone_s": round(PACK * median(run.seconds for run in alone), 2),
        "together_s": round(sum(run.seconds for run in together), 2),
        "runs_together": len(together),
    }


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


if __name__ == "__main__":
    main()
