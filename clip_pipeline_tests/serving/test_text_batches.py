"""Texts that wait are encoded together; each caller gets its own vector or its own error."""

import threading
from pathlib import Path

import numpy as np
import pytest

from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.embedding.builtin import builtin_spec
from clip_pipeline.serving.encoder_slot import encoder_loader
from clip_pipeline.serving.text_batches import LONGEST_REMEMBERED_CHARS, TextBatches
from clip_pipeline_tests.fakes import HashEncoder

DEADLINE_S = 10
CAPTIONS = [
    "a dog", "two children run over a wet beach at sunset while a small brown dog follows them",
    "bicycle", "an old man in a blue coat sells oranges at a street corner", "snow", " ".join(["street"] * 120),
    "a red car parked before a white house with a green door", "cat asleep",
]  # fmt: skip


class GatedEncoder(HashEncoder):
    """Waits in each forward pass until it is let on; writes down what each was asked for."""

    def __init__(self, refused=()):
        super().__init__()
        self.passes, self._refused = [], set(refused)
        self._began, self._gate = threading.Semaphore(0), threading.Semaphore(0)

    def encode_texts(self, texts):
        self._pass(list(texts))
        if bad := self._refused & set(texts):
            raise ValueError(f"refused {sorted(bad)}")
        return super().encode_texts(texts)

    def encode_images(self, pixels):
        self._pass("image")
        return super().encode_images(pixels)

    def let_on(self, passes=1):
        self._gate.release(passes)

    def wait_for_pass(self):
        assert self._began.acquire(timeout=DEADLINE_S)

    def _pass(self, what):
        self.passes.append(what)
        self._began.release()
        assert self._gate.acquire(timeout=DEADLINE_S)


@pytest.fixture
def batches_of():
    """Makes `TextBatches` of an encoder, closed in the end."""
    opened = []

    def make(encoder, **options):
        opened.append(TextBatches(encoder, **options))
        return opened[-1]

    yield make
    for batches in opened:
        batches.close()


def busy_with(batches, encoder, text="first"):
    """Ask for one text and return its future once its forward pass is under way."""
    asked = batches.text(text)
    encoder.wait_for_pass()
    return asked


def pixels(value):
    return np.full((1, 3, 32, 32), value, np.uint8)


def test_a_text_that_finds_the_encoder_idle_goes_at_once_and_those_that_wait_go_together(batches_of):
    encoder = GatedEncoder()
    batches = batches_of(encoder)
    futures = [busy_with(batches, encoder), *(batches.text(text) for text in ("b", "a", "c"))]
    encoder.let_on(2)
    found = np.concatenate([future.result(DEADLINE_S) for future in futures])
    assert encoder.passes == [["first"], ["b", "a", "c"]]
    np.testing.assert_array_equal(found, HashEncoder().encode_texts(["first", "b", "a", "c"]))


def test_a_pass_takes_the_oldest_texts_and_no_more_than_it_may(batches_of):
    encoder = GatedEncoder()
    batches = batches_of(encoder, most=2)
    futures = [busy_with(batches, encoder), *(batches.text(text) for text in "abcde")]
    encoder.let_on(4)
    assert [future.result(DEADLINE_S).shape for future in futures] == [(1, 64)] * 6
    assert encoder.passes == [["first"], ["a", "b"], ["c", "d"], ["e"]]


def test_a_text_that_fails_does_not_fail_those_beside_it(batches_of):
    encoder = GatedEncoder(refused=["bad", "worse"])
    batches = batches_of(encoder)
    busy_with(batches, encoder)
    good, bad, fine, worse = (batches.text(text) for text in ("good", "bad", "fine", "worse"))
    encoder.let_on(6)
    np.testing.assert_array_equal(good.result(DEADLINE_S), HashEncoder().encode_texts(["good"]))
    np.testing.assert_array_equal(fine.result(DEADLINE_S), HashEncoder().encode_texts(["fine"]))
    with pytest.raises(ValueError, match=r"refused \['bad'\]"):
        bad.result(DEADLINE_S)
    with pytest.raises(ValueError, match=r"refused \['worse'\]"):
        worse.result(DEADLINE_S)
    assert encoder.passes[1:] == [["good", "bad", "fine", "worse"], ["good"], ["bad"], ["fine"], ["worse"]]


def test_a_text_that_failed_is_tried_again_when_it_is_asked_for_again(batches_of):
    encoder = GatedEncoder(refused=["bad"])
    batches = batches_of(encoder)
    encoder.let_on(2)
    for _ in range(2):
        with pytest.raises(ValueError, match="refused"):
            batches.text("bad").result(DEADLINE_S)
    assert encoder.passes == [["bad"], ["bad"]]


def test_a_text_that_several_wait_for_is_encoded_once(batches_of):
    encoder = GatedEncoder()
    batches = batches_of(encoder)
    under_way = busy_with(batches, encoder)
    assert batches.text("first") is under_way
    assert batches.text("next") is batches.text("next")
    encoder.let_on(2)
    batches.text("next").result(DEADLINE_S)
    assert encoder.passes == [["first"], ["next"]]


def test_the_texts_asked_for_last_are_remembered(batches_of):
    encoder = GatedEncoder()
    batches = batches_of(encoder, remembered=2)
    encoder.let_on(5)
    for text in ("a", "b", "a", "c", "a", "b"):  # b was the one not asked for when c came
        batches.text(text).result(DEADLINE_S)
    assert encoder.passes == [["a"], ["b"], ["c"], ["b"]]


def test_a_long_text_is_not_remembered(batches_of):
    encoder, text = GatedEncoder(), "x" * (LONGEST_REMEMBERED_CHARS + 1)
    batches = batches_of(encoder)
    encoder.let_on(2)
    for _ in range(2):
        batches.text(text).result(DEADLINE_S)
    assert encoder.passes == [[text], [text]]


def test_a_vector_that_callers_share_cannot_be_changed(batches_of):
    vector = batches_of(HashEncoder()).text("red").result(DEADLINE_S)
    with pytest.raises(ValueError, match="read-only"):
        vector[0, 0] = 1


def test_images_and_texts_take_turns(batches_of):
    encoder = GatedEncoder()
    batches = batches_of(encoder, most=1)
    busy_with(batches, encoder)
    images = [batches.image(pixels(value)) for value in (10, 200)]
    texts = [batches.text(text) for text in "abc"]
    encoder.let_on(6)
    found = [future.result(DEADLINE_S) for future in (*images, *texts)]
    np.testing.assert_array_equal(found[1], HashEncoder().encode_images(pixels(200)))
    assert encoder.passes == [["first"], ["a"], "image", ["b"], "image", ["c"]]


def test_an_image_that_fails_fails_alone(batches_of):
    batches = batches_of(HashEncoder())
    with pytest.raises(ValueError, match="unpack"):
        batches.image(np.zeros((3, 32), np.uint8)).result(DEADLINE_S)
    assert batches.text("red").result(DEADLINE_S).shape == (1, 64)


def test_closing_ends_the_pass_under_way_and_refuses_what_waits(batches_of):
    encoder = GatedEncoder()
    batches = batches_of(encoder)
    under_way = busy_with(batches, encoder)
    text, image = batches.text("late"), batches.image(pixels(1))
    closing = threading.Thread(target=batches.close)
    closing.start()
    for refused in (text, image):
        with pytest.raises(EncoderUnavailableError, match="stopping"):
            refused.result(DEADLINE_S)
    encoder.let_on()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert under_way.result(0).shape == (1, 64)
    with pytest.raises(EncoderUnavailableError, match="stopping"):
        batches.text("later")
    assert encoder.passes == [["first"]]


def test_the_built_in_encoder_gives_a_text_the_same_vector_alone_and_in_company(batches_of, tmp_path):
    """Texts of a pass are padded to the longest: what is padded must not leak into a vector."""
    encoder = encoder_loader(Path(tmp_path))(builtin_spec())
    alone = np.concatenate([encoder.encode_texts([text]) for text in CAPTIONS])
    batches = batches_of(encoder)
    # The first occupies the encoder, so the others share passes, however many.
    together = np.concatenate([f.result(60) for f in [batches.text(text) for text in ("warm", *CAPTIONS)]][1:])
    cosines = (alone * together).sum(axis=1)
    assert cosines.min() > 0.99999, cosines
