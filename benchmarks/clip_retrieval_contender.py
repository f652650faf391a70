"""clip-retrieval as a contender of `benchmarks.embed`: its own `clip_inference` over a folder, nothing of it replaced.

Each call of it starts two processes that keep statistics and import all of it, and makes a new reader; only the model
stays. A long run should not be judged by that, so a round is two calls, one with a sixth of the pictures, and what the
others took longer counts as embedding them. Whatever of the start does not overlap with the short call makes its rate
better than it is, never worse. `whole_images_per_s` is the long call with its start.

Not for people: `benchmarks.embed` starts it. A main module of its own, because the processes that it spawns import
this one first.
"""

import contextlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.torchvision_beside import use_bench_packages

if TYPE_CHECKING:
    from benchmarks.contender import Place, Timed

if __name__ == "__mp_main__":  # in a process that clip-retrieval spawned, which imports torchvision by way of it
    use_bench_packages()


@dataclass(frozen=True, slots=True)
class Call:
    """What one call took. cpu_s: of all its processes; folder: with its output."""

    images: int
    seconds: float
    cpu_s: float
    folder: Path


class ClipRetrieval:
    """`clip_inference` with open_clip's ViT-B/32 from a file, images only, a reading process for each core."""

    def __init__(self, place: "Place") -> None:
        use_bench_packages()
        from clip_retrieval.clip_inference.main import main  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

        self._infer = main
        self._weights = ensure_weights(place.model.parent / "open-clip-vit-b-32.pt").absolute()
        self._scratch = place.scratch
        self._loaded = False

    def embed(self, paths: Sequence[Path]) -> "Timed":
        """As `Contender.embed`, without what starting takes, `cpu_s` likewise; the first call loads the model."""
        import numpy as np  # noqa: PLC0415

        from benchmarks.contender import Timed  # noqa: PLC0415

        short = self._call(paths[: max(1, len(paths) // 6)]) if self._loaded else None
        long = self._call(paths)
        self._loaded = True
        vectors = np.load(next(long.folder.glob("img_emb/*.npy")))
        if short is None:
            return Timed(long.seconds, vectors, {})
        seconds, cpu_s = without_start(short, long)
        extra = {
            "cpu_s": cpu_s, "start_s": long.seconds - seconds, "whole_images_per_s": long.images / long.seconds,
        }  # fmt: skip
        return Timed(seconds, vectors, extra)

    def _call(self, paths: Sequence[Path]) -> Call:
        from benchmarks.contender import BATCH  # noqa: PLC0415
        from clip_pipeline.core.isolation import available_cores  # noqa: PLC0415

        pictures, output = self._scratch / f"first-{len(paths)}", self._scratch / "output"
        _link(paths, pictures)
        shutil.rmtree(output, ignore_errors=True)
        cpu_before, began = _cpu_s(), time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            self._infer(
                str(pictures), str(output), batch_size=BATCH, num_prepro_workers=available_cores(), enable_text=False,
                clip_model=f"open_clip:ViT-B-32/{self._weights}", use_jit=False,
            )  # fmt: skip
        return Call(len(paths), time.perf_counter() - began, _cpu_s() - cpu_before, output)


def without_start(short: Call, long: Call) -> tuple[float, float]:
    """Seconds and CPU seconds of the images of `long`, at what the images took that `short` did not have.

    Raises:
        SystemExit: the longer call was not the longer one.
    """
    if long.seconds <= short.seconds or long.cpu_s <= short.cpu_s:
        raise SystemExit(
            f"clip-retrieval took {long.seconds:.1f} s for {long.images} pictures and {short.seconds:.1f} s for "
            f"{short.images}; too few to tell its start from its work: take more --images"
        )
    share = long.images / (long.images - short.images)
    return (long.seconds - short.seconds) * share, (long.cpu_s - short.cpu_s) * share


def ensure_weights(path: Path) -> Path:
    """Random weights of open_clip's ViT-B/32 as a file, made where they are missing."""
    if not path.exists():
        import open_clip  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        import torch  # noqa: PLC0415

        from clip_pipeline.core.store import replace_file  # noqa: PLC0415

        with replace_file(path) as temporary:
            torch.save(open_clip.create_model("ViT-B-32", pretrained=None).state_dict(), temporary)
    return path


def main() -> None:
    """As `contender.main`; what clip-retrieval prints goes to standard error, where the log is."""
    from benchmarks.contender import main as take_part  # noqa: PLC0415

    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    take_part({"clip-retrieval": ClipRetrieval})


def _link(paths: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        with contextlib.suppress(FileExistsError):
            (folder / path.name).symlink_to(path.absolute())


def _cpu_s() -> float:
    """Of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    main()
