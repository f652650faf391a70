"""What a call of clip-retrieval took without its start."""

from pathlib import Path

import pytest

from benchmarks.clip_retrieval_contender import Call, without_start


def call_of(images: int, *, start_s: float, image_s: float) -> Call:
    return Call(images, start_s + images * image_s, 2 * (start_s + images * image_s), Path("nowhere"))


def test_what_both_calls_spend_on_starting_is_left_out():
    short, long = (call_of(images, start_s=25, image_s=0.07) for images in (64, 192))
    assert without_start(short, long) == pytest.approx((192 * 0.07, 2 * 192 * 0.07))


def test_a_call_too_short_to_be_told_from_its_start_is_refused():
    with pytest.raises(SystemExit, match="take more --images"):
        without_start(call_of(8, start_s=25, image_s=0.07), call_of(24, start_s=10, image_s=0.07))
