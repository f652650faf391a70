"""From a file to an encoder's pixels. Runs in isolated worker processes: see `embedding.ring`.

What the picture of a file is, as a person would see it and as the models' own processors have it:

- the first frame of an animation;
- EXIF orientation applied;
- plain `convert("RGB")`, as CLIP's and SigLIP's processors do: CMYK through Pillow, palettes looked up, alpha dropped
  (a transparent pixel has the colour that is stored under it);
- more than 8 bits scaled, not clipped: 16-bit grey by 255/65535; 32-bit integers and floats by the range that their
  values suggest ([0, 1], [0, 255], [0, 65535]), else from their minimum to their maximum. 16-bit colour keeps its
  upper 8 bits, which is what Pillow's readers give.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pillow_heif
import simplejpeg
import torch
from PIL import AvifImagePlugin, Image

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.core.image_file import read_file
from clip_pipeline.core.image_header import OpenedImage, fault, open_image, pillow_without_limits
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.embedding.preprocess import PlanarArray, RgbArray, geometry_of, resize_into

_GREY_RANGES = ((0.0, 1.0), (0.0, 255.0), (0.0, 65535.0))


class Decode(Protocol):
    """The signature of `load_pixels`; a parameter of the embedding loop, so that tests can crash and hang."""

    def __call__(
        self, path_text: str, out: PlanarArray, *, sha256: str, preprocessing: Preprocessing, limits: ImageLimits
    ) -> Reason | None:
        """Fill `out`, or say why not."""
        ...


def load_pixels(
    path_text: str, out: PlanarArray, *, sha256: str, preprocessing: Preprocessing, limits: ImageLimits
) -> Reason | None:
    """Fill `out`, uint8 [3, h, w], with the encoder's pixels of one file; the reason where that fails, else None.

    The file is read once, and what is decoded is what has the digest `sha256`; any other content is `CHANGED`.
    """
    content = read_file(path_text, max_bytes=limits.max_bytes)
    if isinstance(content, Reason):
        return content
    if content.sha256 != sha256:
        return Reason(ReasonCode.CHANGED, "the content is not the one that the manifest lists")
    with pillow_without_limits():
        return decode_into(content.data, out, preprocessing=preprocessing, limits=limits)


def decode_into(data: bytes, out: PlanarArray, *, preprocessing: Preprocessing, limits: ImageLimits) -> Reason | None:
    """As `load_pixels`, for the bytes of a file. Call it inside `pillow_without_limits`."""
    opened = open_image(data, max_pixels=limits.max_pixels)
    if isinstance(opened, Reason):
        return opened
    try:
        pixels = _decode_jpeg(data, opened)
        if pixels is None:
            pixels = rgb_pixels(opened.reader)
        geometry = geometry_of(opened.width, opened.height, preprocessing)
        resize_into(pixels, out, geometry=geometry, orientation=opened.pending, preprocessing=preprocessing)
    except MemoryError:
        return Reason(ReasonCode.OUT_OF_MEMORY, f"decoding a {opened.format} of {opened.width} x {opened.height}")
    except Exception as error:  # noqa: BLE001 - hostile bytes raise whatever a decoder's author did not think of
        return fault(error, opened.format)
    return None


def rgb_pixels(image: Image.Image) -> RgbArray:
    """The pixels of a Pillow image of any mode, uint8 [h, w, 3]."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode in ("La", "RGBa"):  # premultiplied; Pillow converts it to RGB by way of straight alpha only
        image = image.convert(image.mode.upper())
    return np.asarray(image.convert("RGB"))


def use_one_thread() -> None:
    """Keep the decoders' and torch's own threads from fighting over cores that have a worker each."""
    torch.set_num_threads(1)
    pillow_heif.options.DECODE_THREADS = 1
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _decode_jpeg(data: bytes, opened: OpenedImage) -> RgbArray | None:
    """The pixels by libjpeg-turbo, or None where Pillow has to see to it: grey, CMYK, damaged.

    Always at full scale. Decoding at n/8 would take 24 ms instead of 39 at 12 megapixels, but measured with trained
    EfficientNet-Lite0 features the cosine to the reference falls to 0.9995 at worst, and to 0.9998 even where eight
    times the encoder's side is kept; at full scale it is 0.99999.
    """
    if opened.format != "JPEG" or opened.reader.mode != "RGB":
        return None
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        return None


def _eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    integer = values.dtype.kind in "iu"
    for from_low, to_high in _GREY_RANGES[1:] if integer else _GREY_RANGES:
        if from_low <= low and high <= to_high:
            low, high = from_low, to_high
            break
    scaled = (numbers - low) * (255.0 / max(high - low, 1e-30))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
