"""Micro-batches of uploads, decoded in real processes that crash and hang for real."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from clip_pipeline.core.errors import EncoderUnavailableError, IntegrityError
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.embedding.analyzer import Analyzer, Upload
from clip_pipeline.embedding.decode import load_pixels
from clip_pipeline_tests.embedding.test_loop import TINY, Flaky, misbehave, pixel_key, write_pictures
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.poison import KINDS, write_poison

LIMITS = ImageLimits(timeout_s=3)


class Changeable:
    """Delegates to the encoder that a test puts in, so that all tests share the decode workers."""

    def __init__(self):
        self.now = HashEncoder()

    @property
    def spec(self):
        return self.now.spec

    @property
    def logit_scale(self):
        return self.now.logit_scale

    def encode_images(self, pixels):
        return self.now.encode_images(pixels)

    def encode_texts(self, texts):
        return self.now.encode_texts(texts)


@pytest.fixture(scope="module")
def shared():
    encoder = Changeable()
    with Analyzer(encoder, limits=LIMITS, forward_batch=4, decode_workers=2, decode=misbehave) as opened:
        yield opened, encoder


@pytest.fixture
def analyzer(shared):
    opened, encoder = shared
    encoder.now = HashEncoder()
    opened._forward.limit = 4  # an earlier test may have halved it
    return opened


@pytest.fixture
def encoder(shared):
    return shared[1]


def upload(path: Path) -> Upload:
    return Upload(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def uploads_of(paths):
    return [upload(path) for path in paths]


def expected(paths):
    """Each picture decoded in this process and encoded alone."""
    pixels = np.zeros((len(paths), 3, 32, 32), np.uint8)
    for one, out in zip(uploads_of(paths), pixels, strict=True):
        assert load_pixels(one.path, out, sha256=one.sha256, preprocessing=TINY, limits=LIMITS) is None
    return np.concatenate([HashEncoder().encode_images(picture[None]) for picture in pixels])


@pytest.mark.parametrize("n", [1, 4, 5, 40])
def test_every_upload_gets_the_vector_it_gets_alone(tmp_path, analyzer, n):
    paths = write_pictures(tmp_path, n)
    found = analyzer.vectors(uploads_of(paths))
    assert all(vector.dtype == np.float32 for vector in found)
    np.testing.assert_allclose(np.stack(found), expected(paths), atol=1e-6)


def test_no_uploads_have_no_vectors(analyzer):
    assert analyzer.vectors([]) == []


def test_what_was_prefetched_is_decoded_once(tmp_path, analyzer):
    """The file is gone when its vector is asked for, so the vector comes from what was decoded before."""
    first, second = write_pictures(tmp_path, 2)
    ahead, now = uploads_of([second]), uploads_of([first])
    analyzer.prefetch(ahead)
    analyzer.prefetch(ahead)
    analyzer.vectors(now)
    while analyzer._ahead[tuple(ahead)].groups[0].pending:
        analyzer._listen()
    truth = expected([second])
    second.unlink()
    np.testing.assert_allclose(analyzer.vectors(ahead), truth, atol=1e-6)
    (gone,) = analyzer.vectors(ahead)
    assert gone.code is ReasonCode.MISSING


def test_a_lane_that_prefetches_before_each_call_gets_the_same_vectors(tmp_path, analyzer):
    paths = write_pictures(tmp_path, 30)
    batches = [paths[i : i + 5] for i in range(0, 30, 5)]
    found = []
    for i, batch in enumerate(batches):
        if i + 1 < len(batches):
            analyzer.prefetch(uploads_of(batches[i + 1]))
        found += analyzer.vectors(uploads_of(batch))
    np.testing.assert_allclose(np.stack(found), expected(paths), atol=1e-6)
    assert analyzer._ahead == {}
    assert sorted(analyzer._free) == list(range(analyzer._ring.groups))


def test_more_is_prefetched_than_there_is_room_for_and_then_not_asked_for(tmp_path, analyzer):
    paths = write_pictures(tmp_path, 60)
    for i in range(0, 50, 5):
        analyzer.prefetch(uploads_of(paths[i : i + 5]))
    assert analyzer._free == []
    np.testing.assert_allclose(np.stack(analyzer.vectors(uploads_of(paths[50:]))), expected(paths[50:]), atol=1e-6)
    assert sorted(analyzer._free) == list(range(analyzer._ring.groups))


@pytest.mark.parametrize("name", ["segfault.png", "hang.png", "raise.png"])
def test_an_upload_that_breaks_its_decoder_costs_itself_only(tmp_path, analyzer, name):
    paths = write_pictures(tmp_path, 6, names=["0.png", "1.png", name, "3.png", "4.png", "5.png"])
    found = analyzer.vectors(uploads_of(paths))
    codes = {"segfault.png": ReasonCode.DECODER_CRASHED, "hang.png": ReasonCode.DECODER_HUNG}
    assert found.pop(2).code is codes.get(name, ReasonCode.CORRUPT)
    good = [path for path in paths if path.name != name]
    np.testing.assert_allclose(np.stack(found), expected(good), atol=1e-6)


def test_every_kind_of_poison_has_its_reason(tmp_path, analyzer):
    poison = write_poison(tmp_path, len(KINDS))
    (good,) = write_pictures(tmp_path / "good", 1)
    paths = [*poison, good]
    *reasons, vector = analyzer.vectors(uploads_of(paths))
    assert vector.shape == (64,)
    for path, reason in zip(poison, reasons, strict=True):
        assert isinstance(reason, Reason), path.name
        assert reason.code in poison[path], path.name


def test_content_that_is_not_what_was_uploaded_is_refused(tmp_path, analyzer):
    first, second = write_pictures(tmp_path, 2)
    (reason,) = analyzer.vectors([Upload(str(first), upload(second).sha256)])
    assert reason.code is ReasonCode.CHANGED


def test_a_device_with_little_room_takes_fewer_at_once(tmp_path, analyzer, encoder):
    paths = write_pictures(tmp_path, 8)
    encoder.now = Flaky(room=1)
    np.testing.assert_allclose(np.stack(analyzer.vectors(uploads_of(paths))), expected(paths), atol=1e-6)
    assert encoder.now.sizes == [1] * 8


def test_a_picture_without_a_direction_is_a_reason(tmp_path, analyzer, encoder):
    paths = write_pictures(tmp_path, 4)
    encoder.now = Flaky(lost=[pixel_key(paths[2])])
    found = analyzer.vectors(uploads_of(paths))
    assert [isinstance(value, Reason) and value.code for value in found] == [False, False, ReasonCode.NOT_FINITE, False]


def test_after_an_error_of_the_encoder_the_next_call_works(tmp_path, analyzer, encoder):
    paths = write_pictures(tmp_path, 12)
    analyzer.prefetch(uploads_of(paths[8:]))
    encoder.now = Flaky(room=0)
    with pytest.raises(EncoderUnavailableError, match="no room for a forward pass of one image"):
        analyzer.vectors(uploads_of(paths[:8]))
    encoder.now = HashEncoder()
    np.testing.assert_allclose(np.stack(analyzer.vectors(uploads_of(paths[8:]))), expected(paths[8:]), atol=1e-6)


def test_an_encoder_that_makes_another_shape_is_found_out(tmp_path, analyzer, encoder, monkeypatch):
    paths = write_pictures(tmp_path, 3)
    monkeypatch.setattr(encoder.now, "encode_images", lambda pixels: np.ones((len(pixels), 3), np.float32))
    with pytest.raises(IntegrityError, match=r"made \(3, 3\) from 3 images, expected 3 x 64"):
        analyzer.vectors(uploads_of(paths))
