"""Crops lie in their picture, and no two made pictures are alike."""

import hashlib

from PIL import Image

from benchmarks.photographs import crop_box, ensure_photographs


def test_every_crop_lies_inside_and_has_the_aspect_ratio():
    for number in range(200):
        left, top, right, bottom = crop_box(number, 500, 301, aspect=4 / 3)
        assert 0 <= left < right <= 500
        assert 0 <= top < bottom <= 301
        assert abs((right - left) / (bottom - top) - 4 / 3) < 0.02


def test_pictures_differ_have_the_size_and_are_made_once(tmp_path):
    paths = ensure_photographs(tmp_path / "small", 40, size=(64, 48))
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 40
    with Image.open(paths[7]) as picture:
        assert picture.size == (64, 48)
    before = [path.stat().st_mtime_ns for path in paths]
    assert ensure_photographs(tmp_path / "small", 40, size=(64, 48)) == paths
    assert [path.stat().st_mtime_ns for path in paths] == before
