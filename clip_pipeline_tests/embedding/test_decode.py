"""Files of every kind to an encoder's pixels, against Pillow doing it by the letter."""

import hashlib
import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.core.image_header import pillow_without_limits
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.embedding import decode
from clip_pipeline.embedding.decode import decode_into, load_pixels, rgb_pixels
from clip_pipeline.embedding.preprocess import reference_pixels
from clip_pipeline_tests.poison import KINDS, write_poison

HALF = (0.5, 0.5, 0.5)
CLIP = Preprocessing("shortest", 224, 224, 224, "bicubic", HALF, HALF)
# As large as the pictures of `scene`, so that nothing is resized and pixels can be compared one by one.
PLAIN = Preprocessing("exact", 0, 48, 64, "bicubic", HALF, HALF)
LIMITS = ImageLimits()


def scene(mode="RGB", size=(64, 48), seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data, preprocessing=PLAIN, limits=LIMITS):
    out = np.zeros((3, preprocessing.height, preprocessing.width), np.uint8)
    with pillow_without_limits():
        reason = decode_into(data, out, preprocessing=preprocessing, limits=limits)
    assert reason is None
    return out


def loaded(path, sha256=None, preprocessing=CLIP):
    out = np.zeros((3, preprocessing.height, preprocessing.width), np.uint8)
    sha256 = sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    return load_pixels(str(path), out, sha256=sha256, preprocessing=preprocessing, limits=LIMITS), out


def planes(image):
    return np.asarray(image).transpose(2, 0, 1)


def difference(found, expected):
    assert found.shape == expected.shape
    return np.abs(found.astype(int) - expected)


def reference(data, preprocessing=CLIP):
    with Image.open(io.BytesIO(data)) as image:
        return reference_pixels(ImageOps.exif_transpose(image).convert("RGB"), preprocessing)


def test_real_photographs_are_those_of_the_reference(photos):
    for name, path in photos.items():
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                continue
        reason, found = loaded(path)
        assert reason is None, name
        assert difference(found, reference(path.read_bytes())).mean() <= 0.02, name


@pytest.mark.parametrize("kind", ["Landscape", "Portrait"])
def test_photographs_in_all_orientations_are_those_of_the_reference(shared_data, kind):
    for path in sorted((shared_data / "exif_orientation").glob(f"{kind}_*.jpg")):
        reason, found = loaded(path)
        assert reason is None
        assert difference(found, reference(path.read_bytes())).mean() <= 0.01, path.name


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(size=(301, 224)), kind, exif=exif)
    assert difference(decoded(data, CLIP), reference(data)).mean() <= 0.02


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("RGB", "JPEG", {"keep_rgb": True}),
        ("1", "PNG", {}),
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": bytes(range(200))}),
        ("RGBA", "PNG", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGBA", "WEBP", {"lossless": True, "exact": True}),
        ("P", "GIF", {}),
        ("RGB", "BMP", {}),
        ("P", "BMP", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("CMYK", "TIFF", {}),
        ("LAB", "TIFF", {}),
        ("P", "TIFF", {}),
        ("RGBA", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "jpeg"}),
    ],
)
def test_every_kind_of_pixel_becomes_what_pillow_converts_to_rgb(mode, kind, options):
    data = encoded(scene(mode), kind, **options)
    with pillow_without_limits(), Image.open(io.BytesIO(data)) as image:
        expected = planes(image.convert("RGB"))
    assert difference(decoded(data), expected).max() <= 1


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_modern_formats_decode_to_the_picture_that_was_saved(kind):
    image, stream = scene(), io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(stream, quality=95)
    else:
        image.save(stream, "AVIF", quality=95)
    assert difference(decoded(stream.getvalue()), planes(image)).mean() <= 6


def test_the_first_frame_of_an_animation_counts():
    first, second = scene(seed=1), scene(seed=2)
    for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        data = encoded(first, kind, save_all=True, append_images=[second], **options)
        expected = first if kind != "GIF" else Image.open(io.BytesIO(encoded(first, "GIF"))).convert("RGB")
        assert difference(decoded(data), planes(expected)).max() <= 2, kind


def ramp(dtype, low, high):
    return np.linspace(low, high, 64 * 48).reshape(48, 64).astype(dtype)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(kind):
    values = ramp(np.uint16, 0, 65535)
    expected = np.broadcast_to(np.rint(values / 257.0), (3, 48, 64))
    assert difference(decoded(encoded(Image.fromarray(values), kind)), expected).max() <= 1


def test_sixteen_bit_colour_keeps_its_upper_bits():
    values = np.repeat(ramp(np.uint16, 0, 65535)[..., None], 3, axis=2)
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, photometric="rgb")
    assert difference(decoded(stream.getvalue()), planes(values >> 8)).max() == 0


@pytest.mark.parametrize(
    ("dtype", "low", "high", "white"),
    [
        (np.float32, 0, 1, 255),
        (np.float32, 0, 0.5, 128),
        (np.float32, 0, 255, 255),
        (np.float32, 0, 65535, 255),
        (np.float32, -3, 7, 255),
        (np.int32, 0, 255, 255),
        (np.int32, 0, 65535, 255),
        (np.int32, -100_000, 900_000, 255),
    ],
)
def test_numbers_become_grey_by_the_range_they_suggest(dtype, low, high, white):
    image = Image.fromarray(ramp(dtype, low, high))
    expected = np.broadcast_to(ramp(np.float64, 0, white), (3, 48, 64))
    assert difference(decoded(encoded(image, "TIFF")), np.rint(expected)).max() <= 1


def test_numbers_that_are_none_become_black():
    values = ramp(np.float32, 0, 1)
    values[0, :3] = [np.nan, np.inf, -np.inf]
    assert rgb_pixels(Image.fromarray(values))[0, :3].tolist() == [[0, 0, 0]] * 3


def test_premultiplied_alpha_is_divided_out():
    image = scene("RGBA").convert("RGBa")
    np.testing.assert_array_equal(rgb_pixels(image), np.asarray(image.convert("RGBA").convert("RGB")))


def test_poison_has_a_reason_of_its_kind_and_warns_of_nothing(tmp_path):
    for path, reasons in write_poison(tmp_path, 2 * len(KINDS)).items():
        reason, _ = loaded(path, preprocessing=PLAIN)
        assert isinstance(reason, Reason), path.name
        assert reason.code in reasons, (path.name, reason)


def test_a_jpeg_that_only_warns_is_decoded_by_pillow():
    data = bytearray(encoded(scene(), "JPEG"))
    data[-2:-2] = b"stray bytes"
    assert decode._decode_jpeg(bytes(data), _opened(bytes(data))) is None
    assert difference(decoded(bytes(data)), planes(Image.open(io.BytesIO(data)))).max() == 0


def _opened(data):
    opened = decode.open_image(data, max_pixels=LIMITS.max_pixels)
    assert not isinstance(opened, Reason)
    return opened


def test_another_content_than_the_manifest_lists_has_changed(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(scene(), "PNG"))
    reason, out = loaded(path, sha256="0" * 64)
    assert reason is not None
    assert reason.code is ReasonCode.CHANGED
    assert not out.any()


def test_a_file_that_vanished_is_missing(tmp_path):
    reason, _ = loaded(tmp_path / "gone.png", sha256="0" * 64)
    assert reason is not None
    assert reason.code is ReasonCode.MISSING


def test_a_decoder_without_memory_is_out_of_memory(monkeypatch):
    def fail(image):
        raise MemoryError(image.mode)

    monkeypatch.setattr(decode, "rgb_pixels", fail)
    out = np.zeros((3, 48, 64), np.uint8)
    reason = decode_into(encoded(scene(), "PNG"), out, preprocessing=PLAIN, limits=LIMITS)
    assert reason == Reason(ReasonCode.OUT_OF_MEMORY, "decoding a PNG of 64 x 48")


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_strips_of_one_pixel_are_embedded(size, kind):
    found = decoded(encoded(Image.new("RGB", size, (200, 100, 50)), kind), CLIP)
    assert difference(found, np.broadcast_to(np.array([200, 100, 50])[:, None, None], found.shape)).max() <= 2
