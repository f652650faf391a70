"""Towers that OpenVINO computes, against the torch modules that they were made from."""

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clip_pipeline.core.errors import ConfigurationError, EncoderUnavailableError
from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.core.store import Store
from clip_pipeline.embedding import builtin, huggingface, openvino_tower
from clip_pipeline.embedding.huggingface import HuggingFaceEncoder, huggingface_spec
from clip_pipeline.embedding.openvino_tower import (
    Backend,
    Conversion,
    Traced,
    chosen_backend,
    default_dtype,
    open_tower,
    refusal,
)
from clip_pipeline.embedding.registry import ensure_pinned, load_encoder
from clip_pipeline.embedding.traced import traced_images
from clip_pipeline_tests.embedding.tiny_models import SIDE, TEXTS, save_tiny_clip, save_tiny_siglip

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed: install clip-pipeline[cpu]"
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MAKERS = {"clip": save_tiny_clip, "siglip": save_tiny_siglip}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each family; read only."""
    return {family: make(tmp_path_factory.mktemp(family)) for family, make in MAKERS.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversions that tests may share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def clip_folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A CLIP model that a test may damage."""
    return Path(shutil.copytree(folders["clip"], tmp_path / "clip"))


def pixels_of(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 3, SIDE, SIDE), np.uint8)


def open_encoder(
    folder: Path, backend: Backend, *, cache_dir: Path | None = None, dtype: str = "float32"
) -> HuggingFaceEncoder:
    spec = huggingface_spec(str(folder), folder, dtype=dtype, cache_dir=None)
    return HuggingFaceEncoder(folder, spec, device=CPU, backend=backend, cache_dir=cache_dir)


def needs_bfloat16() -> None:
    reason = refusal(CPU, dtype="bfloat16")
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("family", MAKERS)
def test_in_float32_vectors_are_those_of_torch_for_any_number_of_images_and_texts(family, folders, cache):
    ours, truth = open_encoder(folders[family], "openvino", cache_dir=cache), open_encoder(folders[family], "torch")
    for n in (3, 1, 8):
        np.testing.assert_allclose(ours.encode_images(pixels_of(n)), truth.encode_images(pixels_of(n)), atol=2e-5)
    for texts in (TEXTS, TEXTS[:1], TEXTS[3:4] * 70):
        np.testing.assert_allclose(ours.encode_texts(texts), truth.encode_texts(texts), atol=2e-5)
    # The comparison can fail: other pictures and other texts are somewhere else.
    assert not np.allclose(ours.encode_images(pixels_of(3)), ours.encode_images(pixels_of(8)[:3]), atol=1e-2)
    assert not np.allclose(ours.encode_texts(TEXTS), ours.encode_texts(TEXTS[::-1]), atol=1e-2)


def test_in_bfloat16_images_are_rounded_and_texts_are_not(folders, cache):
    needs_bfloat16()
    half = open_encoder(folders["clip"], "openvino", cache_dir=cache, dtype="bfloat16")
    full = open_encoder(folders["clip"], "torch")
    cosines = np.sum(half.encode_images(pixels_of(8)) * full.encode_images(pixels_of(8)), axis=1)
    assert 0.99 < cosines.min() < 0.9999999
    np.testing.assert_allclose(half.encode_texts(TEXTS), full.encode_texts(TEXTS), atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(half.encode_images(pixels_of(3)), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("family", MAKERS)
def test_weights_kept_in_bfloat16_change_no_bit_and_halve_what_is_kept(family, folders, tmp_path):
    """A home's vectors stay what they were before conversions were kept so."""
    needs_bfloat16()
    kept = open_encoder(folders[family], "openvino", cache_dir=tmp_path, dtype="bfloat16")
    whole = open_encoder(folders[family], "openvino", dtype="bfloat16")
    made, read = (
        kept.encode_images(pixels_of(5)),
        open_encoder(folders[family], "openvino", cache_dir=tmp_path, dtype="bfloat16").encode_images(pixels_of(5)),
    )
    np.testing.assert_array_equal(made, whole.encode_images(pixels_of(5)))
    np.testing.assert_array_equal(read, made)
    open_encoder(folders[family], "openvino", cache_dir=tmp_path).encode_images(pixels_of(1))
    half, full = sorted(path.stat().st_size for path in tmp_path.glob("openvino/image-*/tower.bin"))
    assert 0.5 < half / full < 0.7


def test_what_was_traced_is_gone_before_the_tower_is_compiled(folders, monkeypatch, tmp_path):
    """The module's weights stayed beside the compiled ones for as long as a process lived: 335 MB of ViT-B/32."""
    traced: list[weakref.ref[nn.Module]] = []
    alive: list[nn.Module | None] = []

    def noted(*arguments: Any, **named: Any) -> Traced:
        made = traced_images(*arguments, **named)
        traced.append(weakref.ref(made.module))
        return made

    class Compiled(openvino_tower.ConvertedTower):
        def __init__(self, model: Any, *, dtype: str) -> None:
            alive.append(traced[0]())
            super().__init__(model, dtype=dtype)

    monkeypatch.setattr(huggingface, "traced_images", noted)
    monkeypatch.setattr(openvino_tower, "ConvertedTower", Compiled)
    open_encoder(folders["clip"], "openvino", cache_dir=tmp_path).encode_images(pixels_of(1))
    assert alive == [None]


@pytest.mark.slow
def test_the_builtin_encoder_makes_the_same_vectors_with_both(cache):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 224, 224), np.uint8)
    pixels[1:, :, 60:180] //= 4
    (torch_made, openvino_made) = (
        builtin.BuiltinEncoder(device=CPU, cache_dir=cache, backend=backend).encode_images(pixels)
        for backend in ("torch", "openvino")
    )
    np.testing.assert_allclose(torch_made, openvino_made, atol=1e-4)


def test_pixels_may_be_read_only_and_none(folders, cache):
    encoder = open_encoder(folders["clip"], "openvino", cache_dir=cache)
    pixels = pixels_of(2)
    expected = encoder.encode_images(pixels)
    pixels.flags.writeable = False
    np.testing.assert_array_equal(encoder.encode_images(pixels), expected)
    np.testing.assert_array_equal(encoder.encode_images(pixels[::-1]), expected[::-1])
    assert encoder.encode_images(pixels[:0]).shape == (0, 32)


def test_threads_that_encode_at_once_get_their_own_vectors(folders, cache):
    encoder = open_encoder(folders["clip"], "openvino", cache_dir=cache)
    asked = [pixels_of(1 + number % 5) for number in range(40)]
    expected = [encoder.encode_images(pixels) for pixels in asked]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(encoder.encode_images, asked), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_kept_conversion_is_read_without_the_models_weights(clip_folder, tmp_path):
    """Loading them is what a start takes longest for."""
    first = open_encoder(clip_folder, "openvino", cache_dir=tmp_path)
    images, texts = first.encode_images(pixels_of(2)), first.encode_texts(TEXTS)
    (clip_folder / "model.safetensors").unlink()
    later = HuggingFaceEncoder(clip_folder, first.spec, device=CPU, backend="openvino", cache_dir=tmp_path)
    np.testing.assert_array_equal(later.encode_images(pixels_of(2)), images)
    np.testing.assert_array_equal(later.encode_texts(TEXTS), texts)


def test_other_weights_are_converted_anew(folders, cache, tmp_path):
    other = open_encoder(save_tiny_clip(tmp_path / "other", seed=1), "openvino", cache_dir=cache)
    same = open_encoder(folders["clip"], "openvino", cache_dir=cache)
    assert not np.allclose(other.encode_images(pixels_of(2)), same.encode_images(pixels_of(2)), atol=1e-2)


def test_a_damaged_conversion_is_made_anew(clip_folder, tmp_path, caplog):
    expected = open_encoder(clip_folder, "openvino", cache_dir=tmp_path).encode_images(pixels_of(2))
    weights = next((tmp_path / "openvino").glob("image-*")) / "tower.bin"
    os.truncate(weights, weights.stat().st_size // 2)
    found = open_encoder(clip_folder, "openvino", cache_dir=tmp_path).encode_images(pixels_of(2))
    np.testing.assert_array_equal(found, expected)
    assert "a converted tower is damaged" in caplog.text
    caplog.clear()
    open_encoder(clip_folder, "openvino", cache_dir=tmp_path).encode_images(pixels_of(2))
    assert not caplog.text


def test_what_cannot_be_kept_is_used_all_the_same(clip_folder, tmp_path, caplog):
    (tmp_path / "openvino").write_text("not a folder")
    assert open_encoder(clip_folder, "openvino", cache_dir=tmp_path).encode_images(pixels_of(2)).shape == (2, 32)
    assert "the converted tower is not kept" in caplog.text


CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
import torch
from clip_pipeline.core import store
from clip_pipeline_tests.embedding.test_openvino_tower import open_encoder, pixels_of

asked = []
sys.addaudithook(lambda event, arguments: asked.append(arguments) if event == "socket.connect" else None)
if sys.argv[3] == "killed":
    store.fsync_path = lambda path: os.kill(os.getpid(), signal.SIGKILL)
open_encoder(Path(sys.argv[1]), "openvino", cache_dir=Path(sys.argv[2])).encode_images(pixels_of(2))
sys.exit(str(asked) if asked or "openvino_telemetry" in sys.modules else 0)
"""


def run_child(clip_folder: Path, cache_dir: Path, what: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", CHILD, str(clip_folder), str(cache_dir), what]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(cache_dir)}
    return subprocess.run(command, env=environment, timeout=100, check=False, capture_output=True, text=True)


def test_a_process_killed_while_it_keeps_a_conversion_leaves_none(clip_folder, tmp_path):
    assert run_child(clip_folder, tmp_path, "killed").returncode == -signal.SIGKILL
    left = [path.name for path in (tmp_path / "openvino").iterdir()]
    assert len(left) == 1
    assert left[0].startswith(".tmp-image-")
    assert open_encoder(clip_folder, "openvino", cache_dir=tmp_path).encode_images(pixels_of(2)).shape == (2, 32)


def test_nobody_is_told_of_a_conversion(clip_folder, tmp_path):
    """OpenVINO's telemetry sends a message at import and at each conversion, and keeps a folder in the home."""
    done = run_child(clip_folder, tmp_path, "whole")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists()


class NotForGraphs(nn.Module):
    """OpenVINO has no operation for eigenvalues of a general matrix."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.linalg.eigvals(pixels.float()).real


def not_for_graphs() -> Traced:
    return Traced(NotForGraphs(), {"pixels": torch.ones(2, 3, 3, dtype=torch.uint8)}, {"pixels": (-1, 3, 3)})


def test_a_tower_that_openvino_cannot_take_is_left_to_torch_unless_it_was_asked_for(caplog):
    assert open_tower(not_for_graphs, Conversion("auto", "image", "f", ("pixels",), "float32", None)) is None
    assert "OpenVINO cannot compute a tower, torch does" in caplog.text
    with pytest.raises(EncoderUnavailableError, match="CLIP_PIPELINE_BACKEND to auto"):
        open_tower(not_for_graphs, Conversion("openvino", "image", "f", ("pixels",), "float32", None))


def test_cuda_is_torchs():
    assert chosen_backend("auto", CUDA, dtype="float32") == "torch"
    with pytest.raises(ConfigurationError, match="set CLIP_PIPELINE_DEVICE to cpu"):
        chosen_backend("openvino", CUDA, dtype="float32")
    assert default_dtype("auto", CUDA) == default_dtype("torch", CUDA) == "bfloat16"


def test_without_openvino_torch_computes_and_the_log_says_why(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert chosen_backend("auto", CPU, dtype="float32") == "torch"
    assert "clip-pipeline[cpu]" in caplog.records[0].__dict__["reason"]
    assert default_dtype("auto", CPU) == "float32"
    with pytest.raises(ConfigurationError, match=r"install clip-pipeline\[cpu\]"):
        chosen_backend("openvino", CPU, dtype="float32")


class OldProcessor:
    """What OpenVINO says of a CPU without bfloat16."""

    def get_property(self, device: str, name: str) -> list[str]:
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8", "BIN", "EXPORT_IMPORT"]


def test_a_cpu_without_bfloat16_pins_float32_and_leaves_bfloat16_to_torch(monkeypatch):
    monkeypatch.setattr(openvino_tower, "_core", OldProcessor)
    assert default_dtype("auto", CPU) == default_dtype("openvino", CPU) == "float32"
    assert chosen_backend("auto", CPU, dtype="float32") == "openvino"
    assert chosen_backend("auto", CPU, dtype="bfloat16") == "torch"
    with pytest.raises(ConfigurationError, match="no bfloat16"):
        chosen_backend("openvino", CPU, dtype="bfloat16")


@pytest.mark.parametrize(("setting", "dtype"), [("torch", "float32"), ("auto", "bfloat16")])
def test_a_new_store_is_pinned_to_the_dtype_that_its_backend_computes_best(setting, dtype, folders, tmp_path):
    needs_bfloat16()
    pinned = ensure_pinned(
        Store(tmp_path), str(folders["clip"]), device="cpu", backend=setting, cache_dir=tmp_path / "cache"
    )
    assert pinned.encoder.spec.dtype == dtype


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_store_keeps_what_it_is_pinned_to_with_either_backend(dtype, backend, folders, tmp_path, cache):
    """OpenVINO installed later, or removed, must not shut a home or change what its vectors are."""
    store, spec = Store(tmp_path), load_encoder(str(folders["clip"]), device="cpu", dtype=dtype).spec
    pin_encoder(store, spec)
    found = ensure_pinned(store, "auto", device="cpu", backend=backend, cache_dir=cache).encoder
    assert found.spec == spec
    truth = open_encoder(folders["clip"], "torch", dtype=dtype).encode_images(pixels_of(4))
    assert np.sum(found.encode_images(pixels_of(4)) * truth, axis=1).min() > (0.9999 if dtype == "float32" else 0.99)
