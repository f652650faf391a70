"""What the isolated process does to make a thumbnail. Pillow only: this process is never big."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

from clip_pipeline.core.image_file import read_file
from clip_pipeline.core.image_header import OpenedImage, fault, open_image, pillow_without_limits
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason, ReasonCode

QUALITY = 80

# EXIF orientation -> the transposition that shows the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ThumbnailTask:
    """One file to show small. path: text form; sha256: of the content wanted; side: pixels of the long side at most."""

    path: str
    sha256: str
    side: int
    limits: ImageLimits


def make_thumbnail(task: ThumbnailTask) -> bytes | Reason:
    """The bytes of a WebP file, or why there are none. A small picture is not enlarged."""
    content = read_file(task.path, max_bytes=task.limits.max_bytes)
    if isinstance(content, Reason):
        return content
    if content.sha256 != task.sha256:
        return Reason(ReasonCode.CHANGED, "the file holds another content than the one indexed")
    with pillow_without_limits():
        opened = open_image(content.data, max_pixels=task.limits.max_pixels)
        if isinstance(opened, Reason):
            return opened
        try:
            return _webp(opened, task.side)
        except MemoryError:
            return Reason(ReasonCode.OUT_OF_MEMORY, f"decoding a {opened.format} of {opened.width} x {opened.height}")
        except Exception as error:  # noqa: BLE001 - hostile bytes raise whatever a decoder's author did not think of
            return fault(error, opened.format)


def _webp(opened: OpenedImage, side: int) -> bytes:
    reader: ImageFile.ImageFile = opened.reader
    if opened.format == "JPEG":
        # Decoded at an eighth to a half where that still gives twice the pixels: several times faster, looks the same.
        reader.draft(None, (2 * side, 2 * side))
    small = _displayable(reader)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    if opened.pending in _UPRIGHT:
        small = small.transpose(_UPRIGHT[opened.pending])
    stream = io.BytesIO()
    small.save(stream, "WEBP", quality=QUALITY, method=4)
    return stream.getvalue()


def _displayable(image: Image.Image) -> Image.Image:
    """The first frame as 8-bit RGB, with alpha where it has any; deep greys are scaled, not clipped."""
    image.load()
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64), deep=image.mode.startswith("I;16"))
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _grey(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]", *, deep: bool) -> Image.Image:
    numbers = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = (0.0, 65535.0) if deep else (float(numbers.min()), float(numbers.max()))
    scaled = (numbers - low) * (255.0 / max(high - low, 1e-30))
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8), "L").convert("RGB")
