"""What an image says about itself before it is decoded: format, size, orientation, by Pillow's readers.

The readers are called directly: `PIL.Image.open` swallows why a header is bad, has a pixel limit of its own, and
knows HEIF only after a change to a registry that the whole process shares.
"""

import io
import struct
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from pillow_heif import HeifImageFile

from clip_pipeline.core.reasons import Reason, ReasonCode

_READERS: Mapping[str, Callable[[io.BytesIO, str], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "HEIF": HeifImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
SUPPORTED_FORMATS = tuple(_READERS)

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
)  # fmt: skip
_ORIENTATION_TAG = 0x0112
# The readers of these two turn the picture (TIFF, when it is loaded) or have it turned (HEIF) and state the size so.
_TURNED_BY_READER = frozenset({"TIFF", "HEIF"})


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """A picture whose header is read and whose pixels are not.

    width, height: pixels as displayed. orientation: EXIF value 1 to 8 as recorded; pending: the part of it that is
    still to be applied to what `reader.load()` gives (1: nothing).
    """

    reader: ImageFile.ImageFile
    format: str
    width: int
    height: int
    orientation: int
    pending: int


def open_image(data: bytes, *, max_pixels: int) -> OpenedImage | Reason:
    """The picture in `data`, or why there is none that may be decoded. Call it inside `pillow_without_limits`."""
    name = sniff_format(data)
    if name is None:
        return _stranger(data)
    try:
        reader = _READERS[name](io.BytesIO(data), "")
        opened = _opened(reader, name, data)
    except MemoryError:
        return Reason(ReasonCode.OUT_OF_MEMORY, f"reading the {name} header")
    except Exception as error:  # noqa: BLE001 - hostile bytes raise whatever a reader's author did not think of
        return fault(error, name)
    if opened.width < 1 or opened.height < 1:
        return Reason(ReasonCode.CORRUPT, f"{name} of {opened.width} x {opened.height} pixels")
    if opened.width * opened.height > max_pixels:
        size = f"{opened.width} x {opened.height} pixels"
        return Reason(ReasonCode.TOO_MANY_PIXELS, f"{size}, the limit is {max_pixels}")
    return opened


def sniff_format(data: bytes) -> str | None:
    """The supported format whose signature `data` begins with, whatever the file is called."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        size = min(struct.unpack(">I", data[:4])[0], 256)
        brands = {data[8:12], *(data[i : i + 4] for i in range(16, size, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIF" if brands & _HEIF_BRANDS else None
    return None


def fault(error: Exception, name: str) -> Reason:
    """The reason that stands for an exception of a reader or decoder."""
    text = str(error) or type(error).__name__
    lowered = text.lower()
    if any(word in lowered for word in ("truncated", "premature", "end of file", "eof", "not enough")):
        return Reason(ReasonCode.TRUNCATED, f"{name}: {text}")
    if any(word in lowered for word in ("unsupported", "not supported", "unknown pixel mode", "not implemented")):
        return Reason(ReasonCode.UNSUPPORTED, f"{name}: {text}")
    return Reason(ReasonCode.CORRUPT, f"{name}: {text}")


@contextmanager
def pillow_without_limits() -> Generator[None, None, None]:
    """Pillow's own pixel limit and its warnings are off: `ImageLimits` decides. For processes with one thread."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _opened(reader: ImageFile.ImageFile, name: str, data: bytes) -> OpenedImage:
    orientation = _orientation(reader, data)
    width, height = reader.size
    if name in _TURNED_BY_READER:
        return OpenedImage(reader, name, width, height, orientation, pending=1)
    if orientation >= 5:
        width, height = height, width
    return OpenedImage(reader, name, width, height, orientation, pending=orientation)


def _orientation(reader: ImageFile.ImageFile, data: bytes) -> int:
    try:
        if isinstance(reader, PngImagePlugin.PngImageFile) and "exif" not in reader.info:
            late = _exif_chunk(data)
            if late is not None:
                reader.info["exif"] = b"Exif\0\0" + late
        # Not `reader.getexif()`: the one of PNG decodes the whole picture to look for a chunk behind the pixels.
        value = Image.Image.getexif(reader).get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - broken EXIF is common and no reason to refuse a picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _exif_chunk(data: bytes) -> bytes | None:
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"eXIf":
            return data[position + 8 : position + 8 + length]
        position += 12 + length
    return None


def _stranger(data: bytes) -> Reason:
    """Why bytes without a supported signature are refused: another kind of picture, or none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return Reason(ReasonCode.UNSUPPORTED, f"{image.format}; supported are {', '.join(SUPPORTED_FORMATS)}")
    except UnidentifiedImageError:
        return Reason(ReasonCode.NOT_AN_IMAGE, f"begins with {data[:12]!r}")
    except Exception as error:  # noqa: BLE001 - as above
        return Reason(ReasonCode.NOT_AN_IMAGE, f"begins with {data[:12]!r} ({type(error).__name__})")
