"""Pictures to measure with, made from the real photographs that scikit-image and scikit-learn ship.

Each differs from the others by crop and mirroring, so no two have the same content.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from clip_pipeline.core.store import replace_file
from clip_pipeline.samples import gather_samples

TWO_MEGAPIXELS = (1632, 1224)
_SOURCES = ("astronaut", "brick_wall", "cat", "chinese_temple", "coffee", "dahlia_flower", "grass", "gravel",
            "motorcycle_left", "motorcycle_right", "rocket_launch", "retina")  # fmt: skip
# What a photograph of that size takes: rescaled ones are smoother than what a camera writes, so 2 megapixels get
# noise of a few grey levels, which brings them to 0.2 bytes a pixel, a strongly compressed camera file.
_NOISE_LEVELS = 4.0
_QUALITY = 88


def ensure_photographs(
    folder: Path, count: int, *, size: tuple[int, int], on_made: Callable[[int], None] | None = None
) -> list[Path]:
    """The first `count` pictures of `folder`, JPEG, width x height pixels; those missing are made.

    on_made: called with the number of pictures there are, after each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo-{number:06d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            _make(path, number, size=size, sources=_sources(folder.parent / "sources"))
        if on_made is not None:
            on_made(number + 1)
    return paths


def crop_box(number: int, width: int, height: int, *, aspect: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a seeded crop that fits into width x height and has the given aspect ratio."""
    generator = np.random.default_rng(number)
    largest = min(width, height * aspect)
    wide = max(2, math.floor(largest * generator.uniform(0.6, 1.0)))
    high = min(height, max(2, round(wide / aspect)))
    left = int(generator.integers(0, width - wide + 1))
    top = int(generator.integers(0, height - high + 1))
    return left, top, left + wide, top + high


def _make(path: Path, number: int, *, size: tuple[int, int], sources: Sequence[Image.Image]) -> None:
    source = sources[number % len(sources)]
    box = crop_box(number, source.width, source.height, aspect=size[0] / size[1])
    picture = source.resize(size, Image.Resampling.BICUBIC, box)
    if number // len(sources) % 2:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    generator = np.random.default_rng(number)
    noise = generator.standard_normal((size[1], size[0], 1), dtype=np.float32) * _NOISE_LEVELS
    pixels = np.clip(np.asarray(picture, np.float32) + noise, 0, 255).astype(np.uint8)
    with replace_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG", quality=_QUALITY)


@lru_cache(maxsize=1)
def _sources(folder: Path) -> list[Image.Image]:
    by_name = {path.stem: path for path in gather_samples(folder)}
    return [Image.open(by_name[name]).convert("RGB") for name in _SOURCES]
