"""Choosing, pinning and opening encoders. No test leaves this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ConfigurationError, EncoderUnavailableError, FingerprintMismatchError
from clip_pipeline.core.pinning import pin_encoder, pinned_encoder
from clip_pipeline.core.store import Store
from clip_pipeline.embedding import builtin, registry
from clip_pipeline.embedding.registry import (
    PRODUCTION_MODEL,
    choose_encoder,
    ensure_pinned,
    load_encoder,
    load_pinned_encoder,
    load_text_encoder,
)
from clip_pipeline_tests.embedding.tiny_models import save_tiny_clip

CLOSED_PORT = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP; read only."""
    return save_tiny_clip(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty Hugging Face cache, and a hub that refuses connections."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "ENDPOINT", CLOSED_PORT)
    return folder


def put_in_hub_cache(hub_cache: Path, model: Path, *, name: str = PRODUCTION_MODEL) -> None:
    """Lay a model's files out as a download of `name` would."""
    folder = hub_cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, folder / "snapshots" / "0123456789abcdef0123456789abcdef01234567")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123456789abcdef0123456789abcdef01234567")


def test_auto_takes_the_production_model_where_it_is_cached(hub_cache, tiny):
    put_in_hub_cache(hub_cache, tiny)
    choice = choose_encoder("auto")
    assert choice.name == "openai/clip-vit-large-patch14"
    assert "cache" in choice.reason


def test_auto_takes_the_builtin_encoder_where_there_is_no_hub_and_says_that_it_is_not_clip():
    choice = choose_encoder("auto")
    assert choice.name == builtin.NAME
    assert "not CLIP" in choice.reason
    assert CLOSED_PORT in choice.reason
    assert "\n" not in choice.reason


def test_a_cached_model_without_its_weights_does_not_count(hub_cache, tiny, tmp_path):
    partial = Path(shutil.copytree(tiny, tmp_path / "partial"))
    (partial / "model.safetensors").unlink()
    put_in_hub_cache(hub_cache, partial)
    assert choose_encoder("auto").name == builtin.NAME


@pytest.mark.parametrize(
    ("setting", "name"), [("builtin", builtin.NAME), (builtin.NAME, builtin.NAME), ("google/siglip", "google/siglip")]
)
def test_a_named_encoder_is_chosen_without_looking_anywhere(setting, name):
    assert choose_encoder(setting).name == name


def test_a_relative_directory_is_written_down_as_an_absolute_one(monkeypatch, tiny):
    monkeypatch.chdir(tiny.parent)
    assert choose_encoder(f"./{tiny.name}").name == str(tiny)
    assert choose_encoder(tiny.name).name == str(tiny)


def test_the_first_choice_is_pinned_and_auto_keeps_it(store, hub_cache, tiny, tmp_path):
    """The hub model appears later: the store stays with what it was built with."""
    first = ensure_pinned(store, "auto", device="cpu", cache_dir=tmp_path)
    assert pinned_encoder(store) == first.encoder.spec == builtin.builtin_spec()
    put_in_hub_cache(hub_cache, tiny)
    later = ensure_pinned(store, "auto", device="cpu", cache_dir=tmp_path)
    assert later.encoder.spec == first.encoder.spec
    assert "pinned" in later.reason


def test_auto_pins_a_cached_hub_model_under_its_hub_id(store, hub_cache, tiny, tmp_path):
    put_in_hub_cache(hub_cache, tiny)
    spec = ensure_pinned(store, "auto", device="cpu", cache_dir=tmp_path).encoder.spec
    assert (spec.name, spec.model_name) == (PRODUCTION_MODEL, "clip-ViT-L-14")
    assert ensure_pinned(store, "auto", device="cpu", cache_dir=tmp_path).encoder.encode_texts(["a"]).shape == (1, 32)


def test_auto_falls_back_where_the_cached_model_cannot_be_opened(store, hub_cache, tiny, tmp_path):
    broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
    (broken / "config.json").write_text("{")
    put_in_hub_cache(hub_cache, broken)
    pinned = ensure_pinned(store, "auto", device="cpu", cache_dir=tmp_path)
    assert pinned.encoder.spec.name == builtin.NAME
    assert "could not be loaded" in pinned.reason


def test_another_encoder_than_the_pinned_one_is_refused(store, tiny, tmp_path):
    ensure_pinned(store, "builtin", device="cpu", cache_dir=tmp_path)
    for other in (str(tiny), "google/siglip-base-patch16-224"):
        with pytest.raises(FingerprintMismatchError, match="CLIP_PIPELINE_HOME"):
            ensure_pinned(store, other, device="cpu", cache_dir=tmp_path)
    assert pinned_encoder(store) == builtin.builtin_spec()


def test_the_builtin_encoder_is_refused_where_a_model_is_pinned(store, tiny, tmp_path):
    ensure_pinned(store, str(tiny), device="cpu", cache_dir=tmp_path)
    with pytest.raises(FingerprintMismatchError, match="CLIP_PIPELINE_HOME"):
        ensure_pinned(store, "builtin", device="cpu", cache_dir=tmp_path)


def test_a_copy_of_the_pinned_model_in_another_folder_is_the_same_encoder(store, tiny, tmp_path):
    """Its specification stays the pinned one: the name of the encoder's folder in the store must not change."""
    first = ensure_pinned(store, str(tiny), device="cpu", cache_dir=tmp_path).encoder.spec
    moved = shutil.copytree(tiny, tmp_path / "moved")
    assert ensure_pinned(store, str(moved), device="cpu", cache_dir=tmp_path).encoder.spec == first


def test_a_model_that_changed_under_its_name_is_refused(store, tiny, tmp_path):
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    spec = ensure_pinned(store, str(model), device="cpu", cache_dir=tmp_path).encoder.spec
    save_tiny_clip(model, seed=1)
    for open_it in (
        lambda: ensure_pinned(store, "auto", device="cpu", cache_dir=tmp_path),
        lambda: load_pinned_encoder(spec, device="cpu", cache_dir=tmp_path),
        lambda: load_text_encoder(spec, cache_dir=None),
    ):
        with pytest.raises(FingerprintMismatchError):
            open_it()


def test_a_cpu_serves_a_store_that_was_pinned_on_cuda(store, tiny, tmp_path):
    """CUDA pins bfloat16. The CPU then computes images in bfloat16 too, and texts in float32 as everywhere."""
    spec = load_encoder(str(tiny), device="cpu", dtype="bfloat16").spec
    pin_encoder(store, spec)
    worker = ensure_pinned(store, "auto", device="cpu", cache_dir=tmp_path).encoder
    service = load_text_encoder(spec)
    assert worker.spec == service.spec == spec
    assert worker.encode_images(np.zeros((1, 3, 64, 64), np.uint8)).dtype == np.float32
    np.testing.assert_array_equal(service.encode_texts(["a cat"]), load_encoder(str(tiny)).encode_texts(["a cat"]))


def test_a_pinned_specification_survives_being_written_down(tiny):
    spec = load_encoder(str(tiny), device="cpu").spec
    assert EncoderSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", ["/no/such/model", "./no-such-model"])
def test_a_directory_that_is_not_there_is_named(name):
    with pytest.raises(EncoderUnavailableError, match=r"no.such.model is not a folder"):
        load_encoder(name, device="cpu")


def test_a_hub_model_that_cannot_be_had_names_the_ways_out(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderUnavailableError, match=r"google/none cannot be had.*use `builtin`"):
        load_encoder("google/none", device="cpu")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "mps", ""])
def test_a_device_that_is_not_there_is_a_configuration_error(device):
    with pytest.raises(ConfigurationError, match=r"CUDA devices|expected device"):
        load_encoder("builtin", device=device)


def test_auto_is_the_cpu_where_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert registry.resolve_device("auto") == torch.device("cpu")


def test_the_builtin_encoder_is_opened_without_transformers():
    """Importing it takes 3 s, which every run of a worker would pay."""
    code = (
        "import sys; from clip_pipeline.embedding.registry import load_encoder;"
        "load_encoder('builtin', device='cpu').encode_texts(['a cat']);"
        "sys.exit('transformers' in sys.modules)"
    )
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, check=False).returncode == 0
