"""The shared buffers between decode workers and the embedding loop."""

import hashlib
import os
from dataclasses import replace

import pytest

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.embedding.ring import PixelRing
from clip_pipeline_tests.embedding.test_loop import TINY, pixel_key, row, write_pictures

LIMITS = ImageLimits()


def test_pixels_arrive_in_the_slots_they_were_asked_for(tmp_path):
    first, second = write_pictures(tmp_path, 2)
    with PixelRing(TINY, limits=LIMITS, forward_batch=4, decode_workers=2) as ring:
        ring.submit(1, 3, row(1, first))
        ring.submit(2, 0, row(2, second))
        ring.submit(0, 2, replace(row(3, first), path=str(tmp_path / "gone.png")))
        filled = {}
        while len(filled) < 3:
            filled |= {(f.group, f.slot): f.reason for f in ring.collect()}
        pixels = {(1, 3): ring.pixels(1)[3].copy(), (2, 0): ring.pixels(2)[0].copy()}
    assert filled.pop((0, 2)).code is ReasonCode.MISSING
    assert filled == {(1, 3): None, (2, 0): None}
    assert hashlib.sha256(pixels[1, 3].tobytes()).hexdigest() == pixel_key(first)
    assert hashlib.sha256(pixels[2, 0].tobytes()).hexdigest() == pixel_key(second)


def test_a_closed_ring_leaves_no_descriptor():
    before = set(os.listdir("/proc/self/fd"))
    with PixelRing(TINY, limits=LIMITS):
        pass
    assert set(os.listdir("/proc/self/fd")) == before


def test_every_worker_has_room_for_an_image_while_another_group_is_embedded():
    with PixelRing(TINY, limits=LIMITS, forward_batch=1, decode_workers=16) as ring:
        assert ring.groups >= 2 * 16
        assert ring.pixels(0).shape == (1, 3, 32, 32)


def test_a_crop_larger_than_what_it_is_taken_from_is_refused():
    wrong = Preprocessing("shortest", 200, 224, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ConfigurationError, match="crops 224"):
        PixelRing(wrong, limits=LIMITS)
