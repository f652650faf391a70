"""CLIP and SigLIP models from a folder, against transformers' own processor and model."""

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from clip_pipeline.core.encoder import PixelBatch, Preprocessing
from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.core.image_header import pillow_without_limits
from clip_pipeline.core.label_scores import confidences
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.embedding.decode import decode_into
from clip_pipeline.embedding.huggingface import HuggingFaceEncoder, huggingface_spec, short_name
from clip_pipeline_tests.embedding.tiny_models import SIDE, TEXTS, rewrite_json, save_tiny_clip, save_tiny_siglip

CPU = torch.device("cpu")
MAKERS = {"clip": save_tiny_clip, "siglip": save_tiny_siglip}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each family; read only."""
    return {family: make(tmp_path_factory.mktemp(family)) for family, make in MAKERS.items()}


@pytest.fixture
def clip_folder(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A CLIP model that a test may damage."""
    return Path(shutil.copytree(folders["clip"], tmp_path / "clip"))


@pytest.fixture(scope="module")
def images(photos: Mapping[str, Path]) -> list[Image.Image]:
    """Real photographs, wide and tall, and some whose crop falls between two pixels."""
    names = ("astronaut", "cat", "coffee", "rocket_launch", "dahlia_flower", "retina")
    opened = [Image.open(photos[name]).convert("RGB") for name in names]
    sizes = {"chinese_temple": (299, 224), "hubble_deep_field": (85, 64), "motorcycle_left": (64, 89)}
    odd = [Image.open(photos[name]).convert("RGB").resize(size) for name, size in sizes.items()]
    return [*opened[1:], opened[0].crop((100, 0, 300, 400)), *odd]


def open_encoder(folder: Path, *, dtype: str = "float32") -> HuggingFaceEncoder:
    spec = huggingface_spec(str(folder), folder, dtype=dtype, cache_dir=None)
    return HuggingFaceEncoder(folder, spec, device=CPU)


def preprocessed(images: list[Image.Image], how: Preprocessing) -> PixelBatch:
    """What the embedding loop makes of these pictures."""
    pixels = np.empty((len(images), 3, how.height, how.width), np.uint8)
    with pillow_without_limits():
        for image, out in zip(images, pixels, strict=True):
            assert decode_into(png_of(image), out, preprocessing=how, limits=ImageLimits()) is None
    return pixels


def png_of(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, format="PNG")
    return written.getvalue()


def reference(folder: Path, images: list[Image.Image], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Unit-length image and text vectors of transformers' whole model, fed by its own processor."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(**tokens, **processor(images, return_tensors="pt"))
    return output.image_embeds.numpy(), output.text_embeds.numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("family", MAKERS)
def test_vectors_agree_with_transformers_own_processor_and_model(family, folders, images):
    encoder = open_encoder(folders[family])
    image_truth, text_truth = reference(folders[family], images, TEXTS)
    found = encoder.encode_images(preprocessed(images, encoder.spec.preprocessing))
    assert cosines(found, image_truth).min() >= 0.9999
    assert cosines(encoder.encode_texts(TEXTS), text_truth).min() >= 0.9999
    # The comparison can fail: other photographs and other texts are somewhere else.
    assert cosines(found, np.roll(image_truth, 1, axis=0)).max() < 0.99
    assert cosines(text_truth, np.roll(text_truth, 1, axis=0)).max() < 0.99


@pytest.mark.parametrize(("family", "dim"), [("clip", 32), ("siglip", 64)])
def test_vectors_are_float32_of_unit_length_and_stated_dimension(family, dim, folders):
    encoder = open_encoder(folders[family])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, SIDE, SIDE), np.uint8)
    for vectors, rows in ((encoder.encode_images(pixels), 3), (encoder.encode_texts(TEXTS * 20), 100)):
        assert vectors.dtype == np.float32
        assert vectors.shape == (rows, dim) == (rows, encoder.spec.dim)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("family", MAKERS)
def test_no_images_and_no_texts_make_no_vectors(family, folders):
    encoder = open_encoder(folders[family])
    assert encoder.encode_images(np.empty((0, 3, SIDE, SIDE), np.uint8)).shape == (0, encoder.spec.dim)
    assert encoder.encode_texts([]).shape == (0, encoder.spec.dim)


def test_pixels_may_be_read_only(folders):
    encoder = open_encoder(folders["clip"])
    pixels = np.zeros((1, 3, SIDE, SIDE), np.uint8)
    pixels.flags.writeable = False
    assert encoder.encode_images(pixels).shape == (1, 32)


def test_a_tower_loads_without_the_weights_of_the_other(clip_folder, images):
    """A service that encodes texts only must not need what the image tower weighs, nor the other way round."""
    state = load_file(clip_folder / "model.safetensors")
    kept = {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")}
    for tower, prefixes in kept.items():
        part = {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}
        save_file(part, clip_folder / "model.safetensors", metadata={"format": "pt"})
        encoder = open_encoder(clip_folder)
        if tower == "text":
            assert encoder.encode_texts(["a cat"]).shape == (1, 32)
            continue
        assert encoder.encode_images(preprocessed(images, encoder.spec.preprocessing)).shape == (len(images), 32)
        with pytest.raises(EncoderUnavailableError, match="lack"):
            encoder.encode_texts(["a cat"])


def test_sharded_weights_give_the_same_vectors(folders, clip_folder):
    truth = open_encoder(folders["clip"]).encode_texts(TEXTS)
    model = transformers.CLIPModel.from_pretrained(clip_folder)
    (clip_folder / "model.safetensors").unlink()
    model.save_pretrained(clip_folder, max_shard_size="100KB")
    assert len(list(clip_folder.glob("model-*.safetensors"))) > 1
    np.testing.assert_allclose(open_encoder(clip_folder).encode_texts(TEXTS), truth, atol=1e-6)
    next(clip_folder.glob("model-00002-*.safetensors")).unlink()
    with pytest.raises(EncoderUnavailableError, match="model-00002"):
        open_encoder(clip_folder)


def test_pickled_weights_give_the_same_vectors(folders, clip_folder):
    """Older models of the hub have no safetensors."""
    torch.save(load_file(clip_folder / "model.safetensors"), clip_folder / "pytorch_model.bin")
    (clip_folder / "model.safetensors").unlink()
    truth = open_encoder(folders["clip"]).encode_texts(TEXTS)
    np.testing.assert_allclose(open_encoder(clip_folder).encode_texts(TEXTS), truth, atol=1e-6)


def test_a_bfloat16_store_is_served_by_a_cpu_in_bfloat16(folders, images):
    half, full = (open_encoder(folders["clip"], dtype=dtype) for dtype in ("bfloat16", "float32"))
    pixels = preprocessed(images, full.spec.preprocessing)
    similar = cosines(half.encode_images(pixels), full.encode_images(pixels))
    assert 0.99 < similar.min() < 0.9999999
    np.testing.assert_array_equal(half.encode_texts(TEXTS), full.encode_texts(TEXTS))
    assert half.spec.fingerprint != full.spec.fingerprint


def test_the_fingerprint_follows_weights_arithmetic_and_preprocessing_only(folders, clip_folder, tmp_path):
    fingerprint = open_encoder(folders["clip"]).spec.fingerprint
    copied = Path(shutil.copytree(clip_folder, tmp_path / "copy"))
    (copied / "README.md").write_text("a model")
    rewrite_json(copied / "config.json", transformers_version="4.0.0", architectures=None)
    assert open_encoder(copied).spec.fingerprint == fingerprint
    rewrite_json(copied / "preprocessor_config.json", resample=2)
    assert open_encoder(copied).spec.fingerprint != fingerprint
    vision = json.loads((clip_folder / "config.json").read_text())["vision_config"]
    rewrite_json(clip_folder / "config.json", vision_config=vision | {"hidden_act": "gelu"})
    assert open_encoder(clip_folder).spec.fingerprint != fingerprint
    other = save_tiny_clip(tmp_path / "other", seed=1)
    assert open_encoder(other).spec.fingerprint != fingerprint


def test_preprocessing_is_read_from_the_model(folders):
    clip = open_encoder(folders["clip"]).spec.preprocessing
    assert (clip.resize, clip.size, clip.height, clip.width, clip.resample) == ("shortest", 64, 64, 64, "bicubic")
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    siglip = open_encoder(folders["siglip"]).spec.preprocessing
    assert (siglip.resize, siglip.height, siglip.width, siglip.mean) == ("exact", 64, 64, (0.5, 0.5, 0.5))


def test_the_old_form_of_a_size_as_a_number_is_understood(clip_folder):
    """openai/clip-vit-large-patch14 states `"size": 224, "crop_size": 224` and a feature extractor's name."""
    rewrite_json(clip_folder / "preprocessor_config.json", size=70, crop_size=SIDE)
    preprocessing = open_encoder(clip_folder).spec.preprocessing
    assert (preprocessing.resize, preprocessing.size, preprocessing.height) == ("shortest", 70, SIDE)


@pytest.mark.parametrize(
    "change",
    [
        {"do_resize": False},
        {"do_normalize": False},
        {"do_center_crop": False},
        {"resample": 0},
        {"rescale_factor": 1 / 127.5},
        {"size": {"shortest_edge": 32}},
        {"crop_size": {"height": 48, "width": 48}},
        {"size": {"height": 80, "width": 80}},
        {"image_processor_type": "ViTImageProcessor"},
    ],
)
def test_preprocessing_that_would_not_be_reproduced_is_refused(clip_folder, change):
    rewrite_json(clip_folder / "preprocessor_config.json", **change)
    with pytest.raises(EncoderUnavailableError, match="not supported"):
        open_encoder(clip_folder)


def test_another_family_is_refused_with_the_supported_ones(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(EncoderUnavailableError, match="'bert'; supported are clip, siglip"):
        open_encoder(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named_before_anything_loads(clip_folder, missing):
    (clip_folder / missing).unlink()
    with pytest.raises(EncoderUnavailableError, match=str(clip_folder)):
        open_encoder(clip_folder)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("openai/clip-vit-large-patch14", "clip-ViT-L-14"),
        ("openai/clip-vit-large-patch14-336", "clip-ViT-L-14-336"),
        ("openai/clip-vit-base-patch32", "clip-ViT-B-32"),
        ("google/siglip-base-patch16-224", "siglip-base-patch16-224"),
        ("/models/mine/", "mine"),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short


@pytest.mark.parametrize("family", MAKERS)
def test_confidences_agree_with_the_models_own(family, folders, images):
    """The scale is the model's; SigLIP's bias shifts all labels alike."""
    encoder = open_encoder(folders[family])
    model = transformers.AutoModel.from_pretrained(folders[family]).eval().requires_grad_(False)
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale.exp()), rel=1e-6)
    image_truth, text_truth = reference(folders[family], images, TEXTS)
    logits = torch.tensor(image_truth @ text_truth.T) * model.logit_scale.exp() + getattr(model, "logit_bias", 0)
    pixels = preprocessed(images, encoder.spec.preprocessing)
    found = confidences(encoder.encode_images(pixels), encoder.encode_texts(TEXTS), logit_scale=encoder.logit_scale)
    np.testing.assert_allclose(found, logits.softmax(dim=1), atol=0.02)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_scale_is_read_from_pickled_weights_too(clip_folder, zipped):
    state = load_file(clip_folder / "model.safetensors")
    state["logit_scale"] = torch.tensor(3.0)
    torch.save(state, clip_folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (clip_folder / "model.safetensors").unlink()
    assert open_encoder(clip_folder).logit_scale == pytest.approx(np.exp(3.0))


def test_the_scale_is_read_without_a_tower(folders, monkeypatch):
    encoder = open_encoder(folders["clip"])
    for tower in ("_vision", "_text"):
        monkeypatch.setattr(encoder, tower, None)
    assert encoder.logit_scale > 1


def test_weights_without_a_scale_are_refused_when_it_is_needed(clip_folder):
    state = load_file(clip_folder / "model.safetensors")
    del state["logit_scale"]
    save_file(state, clip_folder / "model.safetensors", metadata={"format": "pt"})
    encoder = open_encoder(clip_folder)
    assert encoder.encode_texts(["a cat"]).shape == (1, 32)
    with pytest.raises(EncoderUnavailableError, match="lack logit_scale"):
        encoder.logit_scale  # noqa: B018
