"""Images embedded per second, against the plain transformers loop and open_clip with a DataLoader.

All contenders embed the same JPEGs of 2 megapixels with the same architecture, CLIP ViT-B/32 with random weights, on
the same device, each in a process of its own. They take turns, round after round, so that a busy machine disturbs all
of them; the median counts. Ours is `embed_batch`: from a sealed manifest to sealed, flushed, checked embeddings. The
others compute in float32, as they do unless told otherwise; ours in what it would pin here, and its cosines to a
float32 reference with trained weights stand beside it. Ours decoding alone and forward passes alone take turns too:
their times added are the limit. The programs to compare with are installed by `make bench-embed`.

With --memory: peak memory of embedding 1,000 and 10,000 small pictures instead, each in a fresh process.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from benchmarks.fidelity import measured_fidelity
from benchmarks.models import ensure_small_clip, ensure_vit_b32
from benchmarks.photographs import TWO_MEGAPIXELS, ensure_photographs
from benchmarks.report import WORK, console, machine, print_table, progress, publish, verdict
from benchmarks.rounds import Child, Round, ratio_of_rounds, summary
from clip_pipeline.embedding.device import resolve_device
from clip_pipeline.embedding.openvino_tower import Backend, chosen_backend, default_dtype

OURS = "clip_pipeline"
PARTS = ("decode-only", "forward-only")
RIVALS = ("transformers", "open_clip-0", "open_clip-2")
OPEN_CLIP = ("open_clip-0", "open_clip-2")
GOAL_RATIO = 2.7
"""Over open_clip with a DataLoader, the better of its two."""
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
    children = _take_turns(model, photographs, arguments)
    results = {name: summary(child.rounds, peak_bytes=child.footprint.peak_bytes) for name, child in children.items()}
    ratios = {
        "open_clip": _ratios(children, [name for name in OPEN_CLIP if name in arguments.against]),
        "best": _ratios(children, arguments.against),
    }
    ratio = median(ratios["open_clip"]) if ratios["open_clip"] else None
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
            "ours": _ours(results[OURS], arguments.backend),
            "peers": _peers(results),
            "limit": _limit(results),
            "cosine": _fidelity(photographs, arguments),
            "least_cosine_to_transformers": _least_cosine(children),
            "ratio_of_rounds": {name: [round(value, 3) for value in values] for name, values in ratios.items()},
            "ratio_to_open_clip": None if ratio is None else round(ratio, 3),
            "goal_ratio": GOAL_RATIO,
            "goal_reached": None if ratio is None else ratio >= GOAL_RATIO,
            "contenders": results,
        },
    )
    print_table(
        f"{arguments.images} JPEGs of {TWO_MEGAPIXELS[0]} x {TWO_MEGAPIXELS[1]}, ViT-B/32, {arguments.rounds} rounds",
        ("", "images/s", "CPU ms/image", "peak MiB"),
        [(name, r["images_per_s"], r["cpu_ms_per_image"], r["peak_memory_mib"]) for name, r in results.items()],
    )
    if ratio is not None:
        line = f"Ours is {ratio:.2f} times as fast as open_clip (goal {GOAL_RATIO}): "
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
    names = [OURS, *PARTS, *arguments.against]
    given = _arguments(model, photographs[0].parent, count=len(photographs), workers=arguments.decode_workers)
    given += ["--backend", arguments.backend]
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


def _ratios(children: dict[str, Child], names: Sequence[str]) -> list[float]:
    """Ours over the best of `names`, round by round."""
    return ratio_of_rounds(children[OURS].rounds, {name: children[name].rounds for name in names}) if names else []


def _ours(result: Mapping[str, Any], backend: Backend) -> dict[str, object]:
    device = resolve_device("auto")
    dtype = default_dtype(backend, device)
    return {
        "images_per_s": result["images_per_s"],
        "cpu_ms_per_image": result["cpu_ms_per_image"],
        "peak_mb": round(result["peak_memory_mib"] * 2**20 / 1e6),
        "backend": chosen_backend(backend, device, dtype=dtype),
        "dtype": dtype,
    }


def _peers(results: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
    """Each program at its best; open_clip has two entries among the contenders."""
    open_clip = [results[name] for name in OPEN_CLIP if name in results]
    found = {"transformers": results.get("transformers")}
    found["open_clip"] = max(open_clip, key=lambda result: result["images_per_s"]) if open_clip else None
    return {
        name: {
            "images_per_s": result["images_per_s"],
            "cpu_ms_per_image": result["cpu_ms_per_image"],
            "peak_mb": round(result["peak_memory_mib"] * 2**20 / 1e6),
        }
        for name, result in found.items()
        if result is not None
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


def _fidelity(photographs: Sequence[Path], arguments: argparse.Namespace) -> dict[str, object] | None:
    """Cosines with trained weights; None where OpenVINO, which reads them, is not installed."""
    device = resolve_device("cpu")
    if chosen_backend("auto", device, dtype="float32") == "torch":
        return None
    folder: Path | None = arguments.fidelity_images
    pictures = photographs if folder is None else sorted(folder.glob("*.jpg"))
    with console().status("Measuring cosines with trained weights"):
        return asdict(measured_fidelity(pictures, dtype=default_dtype(arguments.backend, device)))


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
