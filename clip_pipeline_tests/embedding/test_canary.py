"""The canary sings for the right encoder, and for no other: real decoders, real weights of the built-in encoder."""

import dataclasses
import hashlib
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from clip_pipeline.core.canary import LEAST_COSINE, check_reproduced, read_golden
from clip_pipeline.core.errors import EncoderUnavailableError, FingerprintMismatchError, IntegrityError
from clip_pipeline.core.image_header import OpenedImage, open_image, pillow_without_limits
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.store import Store
from clip_pipeline.embedding import builtin
from clip_pipeline.embedding.canary import (
    PICTURES,
    _data_folder,
    canary_ring,
    canary_vectors,
    check_canary,
    golden_vectors,
    renew_canary,
)
from clip_pipeline.embedding.registry import load_encoder
from clip_pipeline_tests.fakes import HashEncoder

LIMITS = ImageLimits()
FORWARD_BATCH = 32


class Perturbed:
    """An encoder that does what `change` does to its pixels, or to its vectors, and claims to be what it was."""

    def __init__(self, encoder, *, pixels=lambda pixels: pixels, vectors=lambda vectors: vectors):
        self._encoder, self._pixels, self._vectors = encoder, pixels, vectors
        self.spec, self.logit_scale = encoder.spec, 1.0

    def encode_texts(self, texts):
        return self._encoder.encode_texts(texts)

    def encode_images(self, pixels):
        return self._vectors(self._encoder.encode_images(np.ascontiguousarray(self._pixels(pixels))))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def real(cache):
    """The built-in encoder, with its weights."""
    return load_encoder(builtin.NAME, device="cpu", cache_dir=cache)


@pytest.fixture(scope="module")
def rings(real):
    """Open decode workers for each preprocessing: every opening imports torch in another process."""
    sizes = {HashEncoder().spec.preprocessing: 3, real.spec.preprocessing: FORWARD_BATCH}
    with ExitStack() as stack:
        yield {
            preprocessing: stack.enter_context(canary_ring(preprocessing, limits=LIMITS, forward_batch=size))
            for preprocessing, size in sizes.items()
        }


@pytest.fixture
def check(rings):
    """The least cosine of an encoder's vectors in a store; None where they became golden."""

    def run(store, encoder):
        return check_canary(store, encoder, ring=rings[encoder.spec.preprocessing]).cosine

    return run


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_pictures_are_those_that_golden_vectors_were_made_of():
    """One byte changed makes every golden vector in every store useless."""
    digest = hashlib.sha256()
    with _data_folder() as folder:
        for name in PICTURES:
            digest.update(hashlib.sha256((folder / name).read_bytes()).hexdigest().encode())
    assert digest.hexdigest() == "b7e78f2f41faf58d2180c63acfd9a6ec6af39554944168b6831aafb8258b7219"


def test_the_pictures_take_different_ways_through_the_decoders():
    found = set()
    with _data_folder() as folder, pillow_without_limits():
        for name in PICTURES:
            data = (folder / name).read_bytes()
            opened = open_image(data, max_pixels=10**6)
            assert isinstance(opened, OpenedImage)
            found.add((opened.format, opened.reader.mode, opened.pending))
            assert len(data) < 20_000
    assert found == {
        ("JPEG", "RGB", 6), ("JPEG", "RGB", 1), ("JPEG", "L", 1), ("JPEG", "CMYK", 1), ("PNG", "P", 1),
        ("PNG", "I;16", 1), ("PNG", "RGBA", 1), ("WEBP", "RGB", 1),
    }  # fmt: skip


def test_the_first_encoder_of_a_fingerprint_is_golden_and_the_same_one_reproduces_it(store, check):
    assert check(store, HashEncoder()) is None  # in forward passes of three
    before = store.canary_path(HashEncoder().spec.key).read_bytes()
    assert check(store, HashEncoder()) == pytest.approx(1.0, abs=1e-6)
    assert check(store, HashEncoder(seed=1)) is None  # another fingerprint: a canary of its own
    assert store.canary_path(HashEncoder().spec.key).read_bytes() == before


def test_the_golden_vectors_of_the_built_in_encoder_come_with_the_package(store, real, check):
    assert not store.root.exists()
    assert check(store, real) >= 0.9999
    assert not store.root.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"pixels": lambda pixels: pixels[:, ::-1]},  # BGR for RGB
        {"pixels": lambda pixels: pixels[:, :, :, ::-1]},  # mirrored, as by a wrong orientation
        {"pixels": lambda pixels: pixels.transpose(0, 1, 3, 2)},
        {"pixels": lambda pixels: np.roll(pixels, 24, axis=3)},  # another crop
        {"pixels": lambda pixels: (pixels * 0.8).astype(np.uint8)},  # another normalisation
        {"vectors": lambda vectors: unit(vectors + 0.08 * np.roll(vectors, 1, axis=1))},
        {"vectors": lambda vectors: vectors[::-1]},
    ],
)
def test_wrong_preprocessing_and_wrong_weights_are_refused_with_a_remedy(store, real, wrong, check):
    with pytest.raises(FingerprintMismatchError, match=r"does not reproduce.*cosine 0\.\d+ for \w+\.\w+.*Install"):
        check(store, Perturbed(real, **wrong))


def test_a_weight_that_flipped_a_bit_is_refused(store, real, cache, check):
    """What the digest of a file cannot see: memory, or a device, that does not keep what was put there."""
    encoder = load_encoder(builtin.NAME, device="cpu", backend="torch", cache_dir=cache)
    assert isinstance(encoder, builtin.BuiltinEncoder)
    weight = next(p for p in encoder._image_tower().parameters() if p.ndim == 4 and p.shape[0] > 100)
    with torch.no_grad():
        weight[7] = 1e3
    with pytest.raises(FingerprintMismatchError, match="does not reproduce"):
        check(store, encoder)
    assert check(store, real) >= 0.9999


def test_vectors_that_are_no_numbers_are_refused(store, check):
    with pytest.raises(EncoderUnavailableError, match="not-finite"):
        check(store, Perturbed(HashEncoder(), vectors=lambda vectors: vectors * np.nan))


def test_golden_vectors_change_on_a_persons_word_only(store, check, rings):
    wrong = Perturbed(HashEncoder(), pixels=lambda pixels: pixels[:, ::-1])
    check(store, HashEncoder())
    with pytest.raises(FingerprintMismatchError):
        check(store, wrong)
    renew_canary(store, wrong, ring=rings[wrong.spec.preprocessing])
    assert check(store, wrong) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(FingerprintMismatchError):
        check(store, HashEncoder())


def test_damaged_golden_vectors_are_an_error_and_not_the_first(store, check):
    check(store, HashEncoder())
    path = store.canary_path(HashEncoder().spec.key)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(IntegrityError, match="--renew-canary"):
        check(store, HashEncoder())


def test_golden_vectors_of_other_pictures_or_another_encoder_are_not_compared(rings):
    golden = canary_vectors(HashEncoder(), rings[HashEncoder().spec.preprocessing])
    for change, said in (({"pictures": "0" * 64}, "other pictures"), ({"fingerprint": "0" * 64}, "not of")):
        with pytest.raises(FingerprintMismatchError, match=said):
            check_reproduced(dataclasses.replace(golden, **change), golden, names=PICTURES)


def test_rounding_to_half_precision_is_close_enough(store, real, check):
    """bfloat16 keeps 8 bits of a number: as much as different devices may differ."""
    rounded = Perturbed(real, vectors=lambda v: unit(torch.from_numpy(v).to(torch.bfloat16).float().numpy()))
    assert LEAST_COSINE < check(store, rounded) < 1


@pytest.mark.gpu
def test_a_gpu_reproduces_what_a_cpu_made_golden(store, check, tmp_path):
    on_gpu = load_encoder(builtin.NAME, device="cuda", cache_dir=tmp_path / "cache")
    assert check(store, on_gpu) >= LEAST_COSINE


def test_there_is_nothing_golden_for_an_encoder_that_never_came(store):
    assert golden_vectors(store, HashEncoder().spec) is None
    assert read_golden(store.root / "nothing") is None
