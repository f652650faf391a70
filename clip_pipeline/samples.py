"""Real photographs for a first try: those that scikit-image and scikit-learn ship inside their wheels.

Only the list of photographs and the way they are written into a folder belong here. Neither package is imported: their
files are found where they are installed, which takes milliseconds and no network.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.core.store import replace_file

_JPEG: Mapping[str, Any] = {"format": "JPEG", "quality": 92}
_PNG: Mapping[str, Any] = {"format": "PNG"}
_WEBP: Mapping[str, Any] = {"format": "WEBP", "quality": 92, "method": 4}
_TIFF: Mapping[str, Any] = {"format": "TIFF", "compression": "tiff_lzw"}
_SAVE_OPTIONS = {".jpg": _JPEG, ".png": _PNG, ".webp": _WEBP, ".tif": _TIFF}

_SKIMAGE = ("skimage", "data")
_SKLEARN = ("sklearn", "datasets/images")


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph: the file name it gets, whose suffix decides the format, and the file of a wheel it comes from."""

    name: str
    source: str
    package: tuple[str, str] = field(default=_SKIMAGE)


SAMPLES = (
    Sample("astronaut.jpg", "astronaut.png"),
    Sample("brick_wall.png", "brick.png"),
    Sample("cameraman.tif", "camera.png"),
    Sample("cat.jpg", "chelsea.png"),
    Sample("cell_under_microscope.tif", "cell.png"),
    Sample("chinese_temple.jpg", "china.jpg", _SKLEARN),
    Sample("coffee.png", "coffee.png"),
    Sample("coins.png", "coins.png"),
    Sample("dahlia_flower.webp", "flower.jpg", _SKLEARN),
    Sample("grass.jpg", "grass.png"),
    Sample("gravel.webp", "gravel.png"),
    Sample("hubble_deep_field.jpg", "hubble_deep_field.jpg"),
    Sample("moon.tif", "moon.png"),
    Sample("motorcycle_left.jpg", "motorcycle_left.png"),
    Sample("motorcycle_right.webp", "motorcycle_right.png"),
    Sample("moving_clock.png", "clock_motion.png"),
    Sample("page_of_a_book.jpg", "page.png"),
    Sample("retina.jpg", "retina.jpg"),
    Sample("rocket_launch.jpg", "rocket.jpg"),
    Sample("text_on_paper.png", "text.png"),
    Sample("tissue_stain.tif", "ihc.png"),
)
"""All are public domain or CC0, except `china.jpg` and `flower.jpg`: CC BY 2.0, see NOTICE. The two motorcycles are a
stereo pair, so a search by one of them has a right answer."""


def gather_samples(folder: Path) -> list[Path]:
    """The sample photographs in `folder`, in the order of `SAMPLES`; those missing there are written first.

    A file that is there already stays as it is: its time stamp does not change, and so nothing is embedded anew.

    Raises:
        ConfigurationError: the extra `samples` is not installed, or the folder cannot be written.
    """
    targets = [folder / sample.name for sample in SAMPLES]
    missing = [(sample, path) for sample, path in zip(SAMPLES, targets, strict=True) if not _is_there(path)]
    for sample, target in missing:
        source = _source_path(sample)
        try:
            _convert(source, target)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write the sample photograph {target} ({error}); name another folder, or make room there"
            ) from error
    return targets


def _is_there(path: Path) -> bool:
    # An empty file is what a full disk or a stray `touch` leaves; a complete one appears by renaming only.
    return path.is_file() and path.stat().st_size > 0


def _convert(source: Path, target: Path) -> None:
    with Image.open(source) as image, replace_file(target) as temporary:
        image.save(temporary, icc_profile=image.info.get("icc_profile"), **_SAVE_OPTIONS[target.suffix])


def _source_path(sample: Sample) -> Path:
    package, folder = sample.package
    spec = find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(os.fspath(location)) / folder / sample.source
        if path.is_file():
            return path
    state = "is not installed" if spec is None else f"holds no {folder}/{sample.source}"
    raise ConfigurationError(
        f"the sample photographs come with scikit-image and scikit-learn, but {package} {state}; "
        "run: pip install 'clip-pipeline[samples]'"
    )
