"""Resize, crop and turn, against Pillow doing it by the letter."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.embedding.preprocess import Geometry, geometry_of, reference_pixels, resize_into, turn

HALF = (0.5, 0.5, 0.5)
CLIP = Preprocessing("shortest", 224, 224, 224, "bicubic", HALF, HALF)
SIGLIP = Preprocessing("exact", 0, 96, 128, "bilinear", HALF, HALF)
CROPPED = Preprocessing("shortest", 64, 56, 48, "bilinear", HALF, HALF)


def noise(width, height, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def resized(image, preprocessing, orientation=1):
    out = np.zeros((3, preprocessing.height, preprocessing.width), np.uint8)
    width, height = image.size if orientation < 5 else image.size[::-1]
    geometry = geometry_of(width, height, preprocessing)
    resize_into(np.array(image), out, geometry=geometry, orientation=orientation, preprocessing=preprocessing)
    return out


def mean_difference(found, expected):
    assert found.shape == expected.shape
    return np.abs(found.astype(int) - expected).mean()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((224, 224), Geometry(224, 224, 0, 0)),
        ((640, 480), Geometry(298, 224, 37, 0)),
        ((480, 640), Geometry(224, 298, 0, 37)),
        ((500, 375), Geometry(298, 224, 37, 0)),
        ((4000, 3001), Geometry(298, 224, 37, 0)),
        ((299, 224), Geometry(299, 224, 37, 0)),  # 37.5 and 38.5 both go down
        ((301, 224), Geometry(301, 224, 38, 0)),
        ((1, 100), Geometry(224, 22400, 0, 11088)),
    ],
)
def test_geometry_is_that_of_clip(size, expected):
    width, height = size
    assert geometry_of(width, height, CLIP) == expected


def test_exact_geometry_ignores_the_aspect_ratio():
    assert geometry_of(1000, 10, SIGLIP) == Geometry(128, 96, 0, 0)


@pytest.mark.parametrize("preprocessing", [CLIP, SIGLIP, CROPPED], ids=["clip", "siglip", "cropped"])
@pytest.mark.parametrize("size", [(640, 480), (333, 517), (224, 224), (57, 40), (1200, 301), (375, 644), (301, 1200)])
def test_resizing_is_that_of_pillow(preprocessing, size):
    image = noise(*size)
    assert mean_difference(resized(image, preprocessing), reference_pixels(image, preprocessing)) <= 0.05


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(301, 224), (450, 299), (97, 2003)])
def test_turning_after_resizing_is_the_same_as_turning_before(orientation, size):
    """Rows resized before columns in stored instead of displayed orientation once gave a cosine of 0.9994."""
    stored = noise(*size)
    upright = Image.fromarray(np.ascontiguousarray(turn(np.array(stored), orientation, axes=(0, 1))))
    assert mean_difference(resized(stored, CLIP, orientation), reference_pixels(upright, CLIP)) <= 0.02


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_that_of_pillow(orientation):
    image, exif, stream = noise(7, 5), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(stream, "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(stream)))
    np.testing.assert_array_equal(turn(np.asarray(image), orientation, axes=(0, 1)), expected)


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (1, 1), (2500, 150), (150, 2500)])
def test_very_long_pictures_are_those_of_pillow(size):
    image = noise(*size)
    assert mean_difference(resized(image, CROPPED), reference_pixels(image, CROPPED)) <= 0.02


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000), (1_000_000, 1)])
def test_the_longest_pictures_need_no_memory_for_what_is_cropped_away(size):
    """Resized whole, a strip of 1,000,000 x 1 pixels would take 224 x 224,000,000 x 3 bytes."""
    shades = np.broadcast_to(np.linspace(0, 255, max(size)).astype(np.uint8)[:, None], (max(size), 3))
    image = Image.fromarray(np.ascontiguousarray(shades[:, None] if size[0] == 1 else shades[None]))
    found = resized(image, CLIP)
    assert np.abs(found.astype(int) - 127).max() <= 1
