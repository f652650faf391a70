"""Images embedded per second, against the plain transformers loop and open_clip with a DataLoader.

All contenders embed the same JPEGs of 2 megapixels with the same architecture, CLIP ViT-B/32 with random weights, on
the same device, each in a process of its own. They take turns, round after round, so that a busy machine disturbs all
of them; the median counts. Ours is `embed_batch`: from a sealed manifest to sealed, flushed, checked embeddings. The
programs to compare with are installed by `make bench-embed`.

With --memory: peak memory of embedding 1,000 and 10,000 small pictures instead, each in a fresh process.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.models import ensure_small_clip, ensure_vit_b32
from benchmarks.photographs import TWO_MEGAPIXELS, ensure_photographs
from benchmarks.report import WORK, console, machine, print_table, progress, publish, verdict
from benchmarks.rounds import Child, Round, ratio_of_rounds, summary

OURS = "clip_pipeline"
RIVALS = ("transformers", "open_clip-0", "open_clip-2")
GOAL_RATIO = 1.15
SMALL_PICTURE = (96, 72)
GOAL_GROWTH = 0.10
"""Of peak memory, from 1,000 to 10,000 images: the table of results alone may grow, by some kilobytes an image."""


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=192, metavar="N", help="pictures of a round (default 192)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds of each contender (default 3)")
    parser.add_argument(
        "--against", nargs="*", default=list(RIVALS), choices=RIVALS, metavar="NAME",
        help=f"contenders beside ours: {', '.join(RIVALS)} (default: all; the number is DataLoader's num_workers)",
    )  # fmt: skip
    parser.add_argument(
        "--decode-workers", type=int, default=0, metavar="N", help="our decoding processes; 0: one each core (default)"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory of 1,000 and 10,000 small pictures instead")
    parser.add_argument(
        "--work", type=Path, default=WORK, metavar="DIR", help=f"pictures and models, kept for next time ({WORK})"
    )
    arguments = parser.parse_args()
    if arguments.memory:
        measure_memory(arguments.work)
    else:
        measure_speed(arguments)


def measure_speed(arguments: argparse.Namespace) -> None:
    """All contenders in turn; prints and writes `embed`."""
    facts, work = machine(), arguments.work
    with console().status("Making the model"):
        model = ensure_vit_b32(work / "vit-b-32")
    photographs = _photographs(work / "photographs-2mp", arguments.images, size=TWO_MEGAPIXELS)
    children = _take_turns(model, photographs, arguments)
    ours, rivals = children[OURS], {name: children[name] for name in arguments.against}
    ratios = ratio_of_rounds(ours.rounds, {name: child.rounds for name, child in rivals.items()}) if rivals else []
    results = {name: summary(child.rounds, peak_bytes=child.footprint.peak_bytes) for name, child in children.items()}
    ratio = round(median(ratios), 3) if ratios else None
    publish(
        "embed",
        {
            "machine": facts,
            "images": arguments.images,
            "width": TWO_MEGAPIXELS[0],
            "height": TWO_MEGAPIXELS[1],
            "mean_file_bytes": round(sum(path.stat().st_size for path in photographs) / len(photographs)),
            "model": "CLIP ViT-B/32, random weights, float32",
            "contenders": results,
            "ratio_to_best": ratio,
            "ratio_of_rounds": [round(value, 3) for value in ratios],
            "goal_ratio": GOAL_RATIO,
            "goal_reached": None if ratio is None else ratio >= GOAL_RATIO,
            "least_cosine_to_transformers": _least_cosine(children),
        },
    )
    print_table(
        f"{arguments.images} JPEGs of {TWO_MEGAPIXELS[0]} x {TWO_MEGAPIXELS[1]}, ViT-B/32, {arguments.rounds} rounds",
        ("", "images/s", "CPU ms/image", "peak MiB"),
        [(name, r["images_per_s"], r["cpu_ms_per_image"], r["peak_memory_mib"]) for name, r in results.items()],
    )
    if ratio is not None:
        line = f"Ours is {ratio:.2f} times as fast as the best other (goal {GOAL_RATIO}): "
        console().print(line + verdict(ratio >= GOAL_RATIO))


def measure_memory(work: Path) -> None:
    """Peak memory for few and for many pictures; prints and writes `embed-memory`."""
    facts = machine()
    model = ensure_small_clip(work / "small-clip")
    photographs = _photographs(work / "photographs-small", 10_000, size=SMALL_PICTURE)
    peaks: dict[int, int] = {}
    with progress() as bar:
        task = bar.add_task("Measuring", total=2)
        for count in (1_000, 10_000):
            bar.update(task, description=f"Embedding {count:,} pictures")
            child = Child.start(
                OURS, _arguments(model, photographs[0].parent, count=count), scratch=work / f"memory-{count}"
            )
            try:
                child.run()
            finally:
                child.stop()
            peaks[count] = child.footprint.peak_bytes
            bar.advance(task)
    growth = peaks[10_000] / peaks[1_000] - 1
    publish(
        "embed-memory",
        {
            "machine": facts,
            "model": "a CLIP of two layers for 64 x 64 pixels, 512-d: the process and its workers, little of the model",
            "picture": SMALL_PICTURE,
            "peak_memory_mib": {str(count): round(peak / 2**20, 1) for count, peak in peaks.items()},
            "growth": round(growth, 3),
            "goal_growth": GOAL_GROWTH,
            "goal_reached": growth <= GOAL_GROWTH,
        },
    )
    rows = [(f"{count:,} images", f"{peak / 2**20:.0f}") for count, peak in peaks.items()]
    print_table("Peak memory of embed_batch with its decode workers", ("", "MiB"), rows)
    console().print(f"Growth {growth:+.1%} (goal at most {GOAL_GROWTH:.0%}): {verdict(growth <= GOAL_GROWTH)}")


def _take_turns(model: Path, photographs: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Child]:
    names = [OURS, *arguments.against]
    given = _arguments(model, photographs[0].parent, count=len(photographs), workers=arguments.decode_workers)
    children: dict[str, Child] = {}
    with progress() as bar:
        task = bar.add_task("Loading", total=len(names) * (arguments.rounds + 1))
        try:
            for name in names:
                bar.update(task, description=f"Loading {name}")
                children[name] = Child.start(name, given, scratch=arguments.work / f"contender-{name}")
                bar.advance(task)
            for number in range(arguments.rounds):
                # Each starts a round in turn: nobody always runs after the same one.
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    bar.update(task, description=f"Round {number + 1}, {name}")
                    _check(children[name].run(), name, expected=len(photographs))
                    bar.advance(task)
        finally:
            for child in children.values():
                child.stop()
    return children


def _arguments(model: Path, photographs: Path, *, count: int, workers: int = 0) -> list[str]:
    return [
        *("--model", str(model), "--photographs", str(photographs)),
        *("--count", str(count), "--decode-workers", str(workers)),
    ]


def _photographs(folder: Path, count: int, *, size: tuple[int, int]) -> list[Path]:
    with progress() as bar:
        task = bar.add_task("Pictures", total=count)
        return ensure_photographs(folder, count, size=size, on_made=lambda made: bar.update(task, completed=made))


def _check(done: Round, name: str, *, expected: int) -> None:
    if done.images != expected:
        raise SystemExit(f"{name} embedded {done.images} of {expected} pictures; the comparison would not be fair")


def _least_cosine(children: dict[str, Child]) -> float | None:
    """Ours against the transformers loop: both have the same weights, so this shows that they did the same work."""
    if "transformers" not in children:
        return None
    ours, theirs = (
        np.load(children[name].scratch / "answer.npy").astype(np.float32) for name in (OURS, "transformers")
    )
    return round(float((ours * theirs).sum(axis=1).min()), 6)


if __name__ == "__main__":
    main()
