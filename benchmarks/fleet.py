"""One worker against two over the same 2,000 images: a real stack, real workers with one thread each, real runs.

A round is a job of the same pictures, each with a few bytes appended that no decoder reads, so that their content is
new and they are embedded again. They are inspected first, while the sensor that requests embeddings is off; then the
fleet file names one worker or both, and the sensor is turned on. Rounds take turns: 1, 2, 1, 2.

A worker is `clip-pipeline worker` with one thread of torch's and one decode worker, and each has one core of this
machine, as a host of one core would: without that (`--any-core`) a single worker decodes on the other core too, and
there is less left to gain. The rest of the stack (service, daemon, code servers, merges) shares the same cores.
"""

import argparse
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.fleet_under_test import JOB_TIMEOUT_S, ONE_THREAD, CoreMeter, CoresUsed, FleetUnderTest, fleet_running
from benchmarks.models import ensure_vit_b32
from benchmarks.photographs import ensure_photographs
from benchmarks.report import WORK, console, machine, print_table, progress, publish, verdict
from benchmarks.run_stages import RunTimes, gaps_s
from benchmarks.stack_under_test import temporary_folder

GOAL = 1.7
HALF_A_MEGAPIXEL = (816, 612)
PICTURES = 48
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class FleetRound:
    """One job. seconds: from the first run's start to the last one's end; ledger_images_per_s: between the first
    progress that the ledger had and the last; gaps_s: between two runs of a worker."""

    workers: int
    images: int
    seconds: float
    ledger_images_per_s: float
    runs: int
    gaps_s: Sequence[float]
    cores: CoresUsed

    @property
    def images_per_s(self) -> float:
        """Of the whole phase, starts of processes and waits between runs included."""
        return self.images / self.seconds


def main() -> None:
    """Start all, do the rounds, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2_000, metavar="N", help="images of a round (2,000)")
    parser.add_argument("--batch", type=int, default=500, metavar="N", help="images of a batch, that is of a run (500)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds with one worker and with two (2)")
    parser.add_argument("--encoder", default="vit-b32", metavar="NAME", help="vit-b32 has random weights (vit-b32)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="a folder of JPEGs to take; else some are made")
    parser.add_argument("--any-core", action="store_true", help="workers may use all cores")
    parser.add_argument("--keep", action="store_true", help="keep the temporary home, with its logs, and say where")
    arguments = parser.parse_args()
    facts = machine()
    pictures = chosen_pictures(arguments.images)
    with temporary_folder("fleet", keep=arguments.keep) as folder:
        rounds = _measure(folder, pictures, arguments)
    _report(facts, rounds, arguments)


def chosen_pictures(folder: Path | None) -> list[Path]:
    """The JPEGs of the folder, or made-up ones of half a megapixel. Raises SystemExit where it holds none."""
    if folder is None:
        return ensure_photographs(WORK / "photographs-05mp", PICTURES, size=HALF_A_MEGAPIXEL)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise SystemExit(f"there is no JPEG in {folder}")
    return found


def write_copies(folder: Path, pictures: Sequence[Path], *, count: int, mark: str) -> list[Path]:
    """So many files in a new folder, the pictures in turn, each with a content of its own for this mark."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        # Behind the end of a JPEG nothing is read.
        path.write_bytes(pictures[number % len(pictures)].read_bytes() + f"{mark}:{number}".encode())
    return paths


def encoder_setting(name: str) -> str:
    """What the stack is to be told for the encoder of that name."""
    return str(ensure_vit_b32(WORK / "vit-b-32")) if name == "vit-b32" else name


def rate_between(looks: Sequence[tuple[float, int]]) -> float:
    """Images a second from the first look that shows any to the first that shows as many as the last one."""
    started = next(look for look in looks if look[1] > 0)
    ended = next(look for look in looks if look[1] == looks[-1][1])
    return (ended[1] - started[1]) / (ended[0] - started[0]) if ended[0] > started[0] else 0.0


def ratios(rounds: Sequence[FleetRound]) -> list[float]:
    """Two workers over one, each pair of rounds that followed each other."""
    alone, together = ([one for one in rounds if one.workers == number] for number in (1, 2))
    return [two.images_per_s / one.images_per_s for one, two in zip(alone, together, strict=True)]


def _measure(folder: Path, pictures: Sequence[Path], arguments: argparse.Namespace) -> list[FleetRound]:
    cores = sorted(os.sched_getaffinity(0))
    if not arguments.any_core and len(cores) < 2:
        raise SystemExit("two workers of one core each need two cores")
    extra = {"CLIP_PIPELINE_BATCH_SIZE": str(arguments.batch)}
    rounds: list[FleetRound] = []
    with progress() as bar:
        task = bar.add_task("Starting the stack", total=2 * arguments.rounds + 2)
        encoder = encoder_setting(arguments.encoder)
        with fleet_running(folder, encoder=encoder, roots=folder, extra=extra, worker=ONE_THREAD) as fleet:
            workers = [fleet.start_worker(core=None if arguments.any_core else core) for core in cores[:2]]
            bar.advance(task)
            for number in range(-1, 2 * arguments.rounds):
                used = workers[: number % 2 + 1]
                bar.update(task, description=f"Round {number + 1}, workers: {len(used)}")
                paths = write_copies(folder / f"round-{number}", pictures, count=arguments.count, mark=str(number))
                done = _round(fleet, used, paths, batch=arguments.batch)
                shutil.rmtree(paths[0].parent)
                if number >= 0:  # the first of all pays for the first release, and for what the disk holds
                    rounds.append(done)
                bar.advance(task)
    return rounds


def _round(fleet: FleetUnderTest, workers: Sequence[str], paths: Sequence[Path], *, batch: int) -> FleetRound:
    fleet.use(workers)
    before = fleet.embedded_images()
    with fleet.embedding_held_back():
        job_id = fleet.submit(paths)
        fleet.wait_inspected(len(paths), in_batches=-(-len(paths) // batch))
    looks, cores = _watch(fleet, images=len(paths), before=before)
    fleet.wait_complete([job_id])
    runs = fleet.embedding_runs([job_id])
    _check(runs, workers, images=len(paths))
    seconds = max(run.ended_at for run in runs) - min(run.started_at for run in runs)
    gaps = [round(gap, 2) for gap in gaps_s(runs)]
    by_ledger = round(rate_between(looks), 2)
    return FleetRound(len(workers), len(paths), round(seconds, 2), by_ledger, len(runs), gaps, cores)


def _watch(fleet: FleetUnderTest, *, images: int, before: int) -> tuple[list[tuple[float, int]], CoresUsed]:
    """How many images the ledger knew to be embedded when, and who used the cores from the first to the last."""
    looks: list[tuple[float, int]] = [(time.monotonic(), 0)]
    meter: CoreMeter | None = None
    while looks[-1][1] < images:
        if looks[-1][0] - looks[0][0] > JOB_TIMEOUT_S:
            raise SystemExit(f"{looks[-1][1]} of {images} images were embedded within {JOB_TIMEOUT_S:.0f} s")
        time.sleep(LOOK_EVERY_S)
        looks.append((time.monotonic(), fleet.embedded_images() - before))
        if meter is None and looks[-1][1] > 0:
            meter = CoreMeter(fleet)
    assert meter is not None
    return looks, meter.read()


def _check(runs: Sequence[RunTimes], workers: Sequence[str], *, images: int) -> None:
    found, embedded = {run.worker for run in runs}, sum(run.images for run in runs)
    if found != set(workers) or embedded != images:
        raise SystemExit(
            f"{embedded} of {images} images were embedded, on {', '.join(sorted(found))} instead of "
            f"{', '.join(workers)}; the rounds say nothing"
        )


def _report(facts: Mapping[str, object], rounds: Sequence[FleetRound], arguments: argparse.Namespace) -> None:
    found = {
        "machine": facts,
        "encoder": arguments.encoder,
        "images": arguments.count,
        "batch": arguments.batch,
        "cores_of_a_worker": "all" if arguments.any_core else 1,
        **summary_of(rounds),
        "load_average_at_end": round(os.getloadavg()[0], 2),
    }
    publish("fleet", found)
    print_table(
        f"{arguments.count:,} images in batches of {arguments.batch}, {arguments.encoder}",
        ("workers", "images/s", "by the ledger", "runs", "cores: workers", "rest of the stack", "other programs"),
        [_row(one) for one in rounds],
    )
    line = f"Two workers are {found['ratio']:.2f} times one (goal {GOAL}): "
    console().print(line + verdict(found["goal_reached"]))


def summary_of(rounds: Sequence[FleetRound]) -> dict[str, Any]:
    """The rounds, the median of each number of workers, and what two come to over one."""
    by_workers = {number: [one for one in rounds if one.workers == number] for number in (1, 2)}
    by_ledger = [
        two.ledger_images_per_s / one.ledger_images_per_s
        for one, two in zip(by_workers[1], by_workers[2], strict=True)
        if one.ledger_images_per_s
    ]
    gaps = [gap for one in rounds for gap in one.gaps_s]
    ratio = median(ratios(rounds))
    return {
        "rounds": [asdict(one) | {"images_per_s": round(one.images_per_s, 2)} for one in rounds],
        "images_per_s": {n: round(median(one.images_per_s for one in of), 2) for n, of in by_workers.items()},
        "ratio": round(ratio, 3),
        "ratio_of_rounds": [round(value, 3) for value in ratios(rounds)],
        "ratio_by_ledger": round(median(by_ledger), 3) if by_ledger else None,
        "gap_between_runs_s": round(median(gaps), 2) if gaps else None,
        "goal_ratio": GOAL,
        "goal_reached": ratio >= GOAL,
    }


def _row(one: FleetRound) -> Sequence[Any]:
    cores = one.cores
    return (
        one.workers, f"{one.images_per_s:.1f}", f"{one.ledger_images_per_s:.1f}", one.runs, cores.workers, cores.rest,
        cores.others,
    )  # fmt: skip


if __name__ == "__main__":
    main()
