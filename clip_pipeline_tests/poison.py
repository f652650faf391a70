"""A folder of files that look like pictures and are none, or none that may be decoded: one maker for each kind."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from clip_pipeline.core.reasons import ReasonCode

_BROKEN = frozenset({ReasonCode.TRUNCATED, ReasonCode.CORRUPT})
_STRANGE = frozenset({ReasonCode.NOT_AN_IMAGE, ReasonCode.UNSUPPORTED})
_BOMB = frozenset({ReasonCode.TOO_MANY_PIXELS})


def write_poison(folder: Path, n: int) -> dict[Path, frozenset[ReasonCode]]:
    """Write `n` poison files, every kind in turn, and return for each the reasons that may be recorded for it.

    The same n gives the same bytes; no two files have the same content, the empty ones excepted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[Path, frozenset[ReasonCode]] = {}
    for i in range(n):
        name, make, reasons = KINDS[i % len(KINDS)]
        stem, _, suffix = name.rpartition(".")
        path = folder / f"{i:05d}-{stem}.{suffix}"
        path.write_bytes(make(np.random.default_rng(i)))
        expected[path] = reasons
    return expected


def _picture(rng: np.random.Generator, kind: str, **options: object) -> bytes:
    coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(stream, kind, **options)
    return stream.getvalue()


def _cut(kind: str, keep: float, **options: object) -> Callable[[np.random.Generator], bytes]:
    def make(rng: np.random.Generator) -> bytes:
        data = _picture(rng, kind, **options)
        return data[: int(len(data) * keep)]

    return make


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_bomb(rng: np.random.Generator) -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few kilobytes, valid as far as it goes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes([0, *rng.bytes(3)]) + bytes(180_000 * 20), 9)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", rows) + _png_chunk(b"IEND", b"")


def _jpeg_bomb(rng: np.random.Generator) -> bytes:
    data = bytearray(_picture(rng, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def _gif_bomb(rng: np.random.Generator) -> bytes:
    data = bytearray(_picture(rng, "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def _bad_png_header(rng: np.random.Generator) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + rng.bytes(500)


def _bad_png_pixels(rng: np.random.Generator) -> bytes:
    header = struct.pack(">IIBBBBB", 320, 240, 8, 2, 0, 0, 0)
    pixels = _png_chunk(b"IDAT", b"\x78\x9c" + rng.bytes(20_000))
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + pixels + _png_chunk(b"IEND", b"")


def _bad_jpeg_header(rng: np.random.Generator) -> bytes:
    return b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + rng.bytes(4_000).replace(b"\xff", b"\0")


def _foreign_picture(rng: np.random.Generator) -> bytes:
    return _picture(rng, "PPM")


def _text(rng: np.random.Generator) -> bytes:
    return b"This is no picture, whatever its name says. " + rng.bytes(8).hex().encode() + b"\n"


def _html(rng: np.random.Generator) -> bytes:
    return b"<!DOCTYPE html><html><body>404 not found " + rng.bytes(8).hex().encode() + b"</body></html>"


def _video(rng: np.random.Generator) -> bytes:
    brands = b"isom\x00\x00\x02\x00isomiso2avc1mp41"
    return (
        struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands + struct.pack(">I", 20_008) + b"mdat" + rng.bytes(20_000)
    )


KINDS: tuple[tuple[str, Callable[[np.random.Generator], bytes], frozenset[ReasonCode]], ...] = (
    ("truncated jpeg.jpg", _cut("JPEG", 0.5), _BROKEN),
    ("truncated png.png", _cut("PNG", 0.5), _BROKEN),
    ("truncated webp.webp", _cut("WEBP", 0.5), _BROKEN),
    ("empty.jpg", lambda _: b"", frozenset({ReasonCode.EMPTY})),
    ("text.jpg", _text, _STRANGE),
    ("random bytes.png", lambda rng: rng.bytes(3_000), _STRANGE),
    ("bomb png.png", _png_bomb, _BOMB),
    ("bad header png.png", _bad_png_header, _BROKEN),
    ("truncated tiff.tif", _cut("TIFF", 0.5), _BROKEN),
    ("html.jpeg", _html, _STRANGE),
    ("video.jpg", _video, _STRANGE),
    ("bomb gif.gif", _gif_bomb, _BOMB),
    ("bomb jpeg.jpg", _jpeg_bomb, _BOMB),
    ("bad pixels png.png", _bad_png_pixels, _BROKEN),
    ("bad header jpeg.jpg", _bad_jpeg_header, _BROKEN),
    ("foreign picture.jpg", _foreign_picture, frozenset({ReasonCode.UNSUPPORTED})),
    ("truncated progressive.jpg", _cut("JPEG", 0.3, progressive=True), _BROKEN),
    ("truncated compressed tiff.tiff", _cut("TIFF", 0.6, compression="tiff_lzw"), _BROKEN),
    ("truncated gif.gif", _cut("GIF", 0.5), _BROKEN),
    ("truncated bmp.bmp", _cut("BMP", 0.5), _BROKEN),
    ("truncated avif.avif", _cut("AVIF", 0.5, speed=10), _BROKEN),
    ("first bytes only.jpg", lambda rng: b"\xff\xd8\xff\xe1" + rng.bytes(2), _BROKEN),
)
"""File name, maker, and the reasons of which one is recorded when the file is inspected or, at last, decoded."""
