"""Images embedded per second, against the transformers loop, open_clip with a DataLoader and clip-retrieval.

All contenders embed the same JPEGs of 2 megapixels with the same architecture, CLIP ViT-B/32 with random weights, on
the same device, each in a process of its own. They take turns, round after round, so that a busy machine disturbs all
of them; the median counts. Ours is `embed_batch`: from a sealed manifest to sealed, flushed, checked embeddings. The
others compute in float32, as they do unless told otherwise; ours in what it would pin here, and its cosines to a
float32 reference with trained weights stand beside it. Ours decoding alone and forward passes alone take turns too:
their times added are the limit. clip-retrieval is judged by its rate once it has started, which is the kinder one.
The programs to compare with are installed by `make bench-embed`.

With --memory: peak memory of embedding 1,000 and 10,000 small pictures instead, each in a fresh process.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from benchmarks.fidelity import Fidelity, measured_fidelity
from benchmarks.models import ensure_small_clip, ensure_vit_b32
from benchmarks.photographs import TWO_MEGAPIXELS, ensure_photographs
from benchmarks.report import WORK, console, machine, print_table, progress, publish, verdict
from benchmarks.rounds import CONTENDER, Child, Goal, Round, goals_table, ratio_of_rounds, summary
from clip_pipeline.embedding.device import resolve_device
from clip_pipeline.embedding.openvino_tower import Backend, chosen_backend, default_dtype

OURS = "clip_pipeline"
PARTS = ("decode-only", "forward-only")
RIVALS = ("transformers", "open_clip-0", "open_clip-2", "clip-retrieval")
PEERS = {
    "transformers": ("transformers",),
    "open_clip": ("open_clip-0", "open_clip-2"),
    "clip_retrieval": ("clip-retrieval",),
}
"""Programs by the name that they have in the result, and the contenders that each enters; its best counts."""
MODULES = {"clip-retrieval": "benchmarks.clip_retrieval_contender"}
GOAL_RATIOS = {"open_clip": 2.7, "clip_retrieval": 2.2}
GOAL_SHARE_OF_LIMIT = 0.9
GOAL_COSINE = 0.999
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
    parser.add_argument(
        "--backend", choices=get_args(Backend), default="auto", help="what computes ours on a CPU (default auto)"
    )
    parser.add_argument(
        "--fidelity-images", type=Path, metavar="DIR",
        help="JPEGs to measure cosines with (default: those of the rounds, which are crops of 12 photographs)",
    )  # fmt: skip
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
    first_peak_bytes = _peak_of_first_start(model, photographs, arguments)
    children = _take_turns(model, photographs, arguments)
    results = {name: summary(child.rounds, peak_bytes=child.footprint.peak_bytes) for name, child in children.items()}
    cosine = _fidelity(photographs, arguments)
    goals = _goals(children, results, cosine=cosine)
    publish(
        "embed",
        {
            "machine": facts,
            "images": arguments.images,
            "width": TWO_MEGAPIXELS[0],
            "height": TWO_MEGAPIXELS[1],
            "megapixels": round(TWO_MEGAPIXELS[0] * TWO_MEGAPIXELS[1] / 1e6, 2),
            "mean_file_bytes": round(sum(path.stat().st_size for path in photographs) / len(photographs)),
            "model": "CLIP ViT-B/32, random weights",
            "ours": _ours(results[OURS], arguments.backend, first_peak_bytes=first_peak_bytes),
            "peers": _peers(results),
            "limit": _limit(results),
            "cosine": None if cosine is None else asdict(cosine),
            "least_cosine_to_transformers": _least_cosine(children),
            "ratio": {name: round(median(values), 3) for name, values in _all_ratios(children).items()},
            "ratio_of_rounds": {
                name: [round(value, 3) for value in values] for name, values in _all_ratios(children).items()
            },
            "goals": [asdict(goal) | {"reached": goal.reached} for goal in goals],
            "contenders": results,
        },
    )
    print_table(
        f"{arguments.images} JPEGs of {TWO_MEGAPIXELS[0]} x {TWO_MEGAPIXELS[1]}, ViT-B/32, {arguments.rounds} rounds",
        ("", "images/s", "CPU ms/image", "peak MiB"),
        [(name, r["images_per_s"], r["cpu_ms_per_image"], r["peak_memory_mib"]) for name, r in results.items()],
    )
    goals_table(goals)


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


def _peak_of_first_start(model: Path, photographs: Sequence[Path], arguments: argparse.Namespace) -> int:
    """Peak bytes of ours where it has never run, and converts the model first; what it keeps, the rounds find."""
    scratch = arguments.work / f"contender-{OURS}"
    shutil.rmtree(scratch, ignore_errors=True)
    with console().status("Converting the model, once"):
        child = Child.start(OURS, _speed_arguments(model, photographs, arguments), scratch=scratch)
        child.stop()
    return child.footprint.peak_bytes


def _take_turns(model: Path, photographs: Sequence[Path], arguments: argparse.Namespace) -> dict[str, Child]:
    names = [OURS, *PARTS, *arguments.against]
    given = _speed_arguments(model, photographs, arguments)
    children: dict[str, Child] = {}
    with progress() as bar:
        task = bar.add_task("Loading", total=len(names) * (arguments.rounds + 1))
        try:
            for name in names:
                bar.update(task, description=f"Loading {name}")
                children[name] = Child.start(
                    name, given, scratch=arguments.work / f"contender-{name}", module=MODULES.get(name, CONTENDER)
                )
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


def _speed_arguments(model: Path, photographs: Sequence[Path], arguments: argparse.Namespace) -> list[str]:
    given = _arguments(model, photographs[0].parent, count=len(photographs), workers=arguments.decode_workers)
    return [*given, "--backend", arguments.backend]


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


def _all_ratios(children: Mapping[str, Child]) -> dict[str, list[float]]:
    """Ours over each program that took part, at its best, round by round."""
    entered = {program: [name for name in names if name in children] for program, names in PEERS.items()}
    return {
        program: ratio_of_rounds(children[OURS].rounds, {name: children[name].rounds for name in names})
        for program, names in entered.items()
        if names
    }


def _goals(
    children: Mapping[str, Child], results: Mapping[str, Mapping[str, Any]], *, cosine: Fidelity | None
) -> list[Goal]:
    """What was set out to be reached, of what was measured."""
    ratios = {name: median(values) for name, values in _all_ratios(children).items()}
    goals = [
        Goal(f"images/s, times {name}", round(ratios[name], 2), goal, "at least")
        for name, goal in GOAL_RATIOS.items()
        if name in ratios
    ]
    shares = [
        ours.images_per_s * (1 / decode.images_per_s + 1 / forward.images_per_s)
        for ours, decode, forward in zip(*(children[name].rounds for name in (OURS, *PARTS)), strict=True)
    ]
    goals.append(Goal("share of the limit", round(median(shares), 3), GOAL_SHARE_OF_LIMIT, "at least"))
    if cosine is not None:
        goals.append(Goal("cosine, mean", cosine.mean, GOAL_COSINE, "at least"))
    peaks = [results[name]["peak_memory_mib"] for names in PEERS.values() for name in names if name in results]
    if peaks:
        goals.append(Goal("peak MiB, below each of theirs", results[OURS]["peak_memory_mib"], min(peaks), "below"))
    return goals


def _ours(result: Mapping[str, Any], backend: Backend, *, first_peak_bytes: int) -> dict[str, object]:
    device = resolve_device("auto")
    dtype = default_dtype(backend, device)
    return {
        "images_per_s": result["images_per_s"],
        "cpu_ms_per_image": result["cpu_ms_per_image"],
        "peak_mb": round(result["peak_memory_mib"] * 2**20 / 1e6),
        "first_start_peak_mb": round(first_peak_bytes / 1e6),
        "backend": chosen_backend(backend, device, dtype=dtype),
        "dtype": dtype,
    }


def _peers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """Each program that took part, at its best."""
    found: dict[str, object] = {}
    for program, names in PEERS.items():
        entered = [results[name] for name in names if name in results]
        if entered:
            best = max(entered, key=lambda result: result["images_per_s"])
            found[program] = {
                "images_per_s": best["images_per_s"],
                **_rate_of_start(best),
                "cpu_ms_per_image": best["cpu_ms_per_image"],
                "peak_mb": round(best["peak_memory_mib"] * 2**20 / 1e6),
            }
    return found


def _rate_of_start(result: Mapping[str, Any]) -> dict[str, object]:
    """For a program that starts anew with each call: what its rate leaves out."""
    if "whole_images_per_s" not in result:
        return {}
    return {
        "images_per_s_is": "once it has started; its start is in whole_images_per_s only",
        "whole_images_per_s": result["whole_images_per_s"],
        "start_s": result["start_s"],
    }


def _limit(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Decoding and forward passes, each alone on all cores; on a CPU they share the cores, so their times add."""
    decode, forward = (results[name] for name in PARTS)
    seconds = 1 / decode["images_per_s"] + 1 / forward["images_per_s"]
    return {
        "images_per_s": round(1 / seconds, 2),
        "decode_images_per_s": decode["images_per_s"],
        "forward_images_per_s": forward["images_per_s"],
        "cpu_ms_per_image": round(decode["cpu_ms_per_image"] + forward["cpu_ms_per_image"], 1),
    }


def _fidelity(photographs: Sequence[Path], arguments: argparse.Namespace) -> Fidelity | None:
    """Cosines with trained weights; None where OpenVINO, which reads them, is not installed."""
    device = resolve_device("cpu")
    if chosen_backend("auto", device, dtype="float32") == "torch":
        return None
    folder: Path | None = arguments.fidelity_images
    pictures = photographs if folder is None else sorted(folder.glob("*.jpg"))
    with console().status("Measuring cosines with trained weights"):
        return measured_fidelity(pictures, dtype=default_dtype(arguments.backend, device))


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
