"""Dual encoders of the Hugging Face CLIP and SigLIP families, from a folder of model files.

What belongs here: reading a model's configuration into a specification, refusing what would not be reproduced
exactly, and running its two towers, each loaded at first use and alone. Finding the folder is `hub.py`.
"""

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec, PixelBatch, Preprocessing, fingerprint_of
from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.embedding.device import memory_errors, normalised, on_all_cores
from clip_pipeline.embedding.hub import weight_files
from clip_pipeline.embedding.kept_preprocessing import remembered_preprocessing
from clip_pipeline.embedding.once import Once
from clip_pipeline.embedding.openvino_tower import (
    Backend,
    Conversion,
    ConvertedTower,
    Traced,
    chosen_backend,
    open_tower,
)
from clip_pipeline.embedding.traced import traced_images, traced_texts
from clip_pipeline.embedding.weights import digest_of_files

_TEXTS_PER_PASS = 64
_RESAMPLE: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_CLIP_SIZES = {"base": "B", "large": "L", "huge": "H", "giant": "g"}
# What weights do not show but the numbers depend on: OpenAI's and LAION's CLIP differ in `hidden_act` alone.
_ARITHMETIC = ("hidden_act", "layer_norm_eps", "num_attention_heads")


@dataclass(frozen=True, slots=True)
class Family:
    """One `model_type`: its towers' classes, where their vector is in the output, and how texts are padded."""

    vision_class: str
    vision_output: str
    text_class: str
    text_output: str
    padding: str
    image_processor: str


FAMILIES = {
    "clip": Family("CLIPVisionModelWithProjection", "image_embeds", "CLIPTextModelWithProjection", "text_embeds",
                   "longest", "CLIPImageProcessor"),
    # SigLIP was trained on texts padded to the full length, without a mask. SigLIP 2 with a fixed resolution is
    # published under this type too; only its NaFlex variant (`siglip2`) is another.
    "siglip": Family("SiglipVisionModel", "pooler_output", "SiglipTextModel", "pooler_output",
                     "max_length", "SiglipImageProcessor"),
}  # fmt: skip


class HuggingFaceEncoder:
    """Implements `core.encoder.Encoder`. Each tower loads at first use, without the other's weights.

    The image tower computes in `spec.dtype`, which was chosen when the store was pinned, on any device and backend: a
    CPU worker of a store pinned on CUDA runs bfloat16 too. The text tower is float32 everywhere: queries are few, and
    a service without a GPU answers them.
    """

    def __init__(
        self,
        folder: Path,
        spec: EncoderSpec,
        *,
        device: torch.device,
        backend: Backend = "torch",
        cache_dir: Path | None = None,
    ) -> None:
        """`spec` is `huggingface_spec`'s for this folder, or the pinned one with the same fingerprint.

        backend: what computes on a CPU. cache_dir: where converted towers are kept.

        Raises:
            ConfigurationError: OpenVINO was asked for and cannot compute here.
        """
        self._spec = spec
        self._device = device
        self._config = _read_config(folder)
        self._family = _family_of(self._config, folder)
        self._vision = Once(partial(_load_vision, folder, self._config, getattr(torch, spec.dtype), device))
        self._text = Once(partial(_load_text, folder, self._config, device))
        self._tokenizer = Once(partial(_load_tokenizer, folder))
        self._logit_scale = Once(partial(_read_logit_scale, folder))
        self._backend: Backend = backend
        self._cache_dir = cache_dir
        self._folder = folder
        with_openvino = [
            chosen_backend(backend, device, dtype=dtype) == "openvino" for dtype in (spec.dtype, "float32")
        ]
        self._converted_vision = Once(self._convert_vision if with_openvino[0] else _nothing)
        self._converted_text = Once(self._convert_text if with_openvino[1] else _nothing)

    @property
    def spec(self) -> EncoderSpec:
        """Name, fingerprint, dim and preprocessing."""
        return self._spec

    @property
    def logit_scale(self) -> float:
        """As `Encoder.logit_scale`; read from the weights at first use, neither tower is loaded for it.

        SigLIP's bias is left out: a softmax over labels does not change when all of them are shifted alike.

        Raises:
            EncoderUnavailableError: the weights hold no such number.
        """
        return self._logit_scale()

    def encode_images(self, pixels: PixelBatch) -> EmbeddingMatrix:
        """As `Encoder.encode_images`.

        Raises:
            EncoderUnavailableError: at first use, where the weights do not fit the configuration.
            MemoryError: the device has no room for a forward pass of n images.
        """
        if not len(pixels):
            return np.empty((0, self._spec.dim), np.float32)
        converted = self._converted_vision()
        if converted is not None:
            return _unit_length(torch.from_numpy(converted(pixels=pixels)))
        self._vision()  # loaded here, with all of torch's threads
        return on_all_cores(self._forward, pixels) if self._device.type == "cpu" else self._forward(pixels)

    def _forward(self, pixels: PixelBatch) -> EmbeddingMatrix:
        tower = self._vision()
        with memory_errors(), torch.inference_mode():
            images = normalised(pixels, self._spec.preprocessing, device=self._device)
            output = tower(pixel_values=images.to(getattr(torch, self._spec.dtype)))
            return _unit_length(getattr(output, self._family.vision_output))

    def encode_texts(self, texts: Sequence[str]) -> EmbeddingMatrix:
        """As `Encoder.encode_texts`; texts longer than the model's context are cut.

        Raises:
            EncoderUnavailableError: at first use, where the weights do not fit the configuration.
        """
        vectors = np.empty((len(texts), self._spec.dim), np.float32)
        for start in range(0, len(texts), _TEXTS_PER_PASS):
            chosen = list(texts[start : start + _TEXTS_PER_PASS])
            vectors[start : start + len(chosen)] = self._encode_pass(chosen)
        return vectors

    def _encode_pass(self, texts: list[str]) -> EmbeddingMatrix:
        tokens = self._tokens(texts)
        converted = self._converted_text()
        if converted is not None:
            return _unit_length(torch.from_numpy(converted(**{name: ids.numpy() for name, ids in tokens.items()})))
        tower = self._text()
        with memory_errors(), torch.inference_mode():
            output = tower(**{name: ids.to(self._device) for name, ids in tokens.items()})
            return _unit_length(getattr(output, self._family.text_output))

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        """The text tower's inputs, int64 [q, tokens]: SigLIP's tokenizer leaves out the mask, as in its training."""
        tokens = self._tokenizer()(
            texts, padding=self._family.padding, truncation=True, return_tensors="pt",
            max_length=self._config.text_config.max_position_embeddings,
        )  # fmt: skip
        return {name: ids for name, ids in tokens.items() if name != "token_type_ids"}

    def _convert_vision(self) -> ConvertedTower | None:
        def traced() -> Traced:
            # Float32 whatever the store's dtype: OpenVINO rounds when it compiles.
            tower = _load_vision(self._folder, self._config, torch.float32, self._device)
            return traced_images(tower, self._spec.preprocessing, output=self._family.vision_output)

        spec = self._spec
        return open_tower(
            traced, Conversion(self._backend, "image", spec.fingerprint, ("pixels",), spec.dtype, self._cache_dir)
        )

    def _convert_text(self) -> ConvertedTower | None:
        tokens = self._tokens(["a photograph", "a cat"])

        def traced() -> Traced:
            tower = _load_text(self._folder, self._config, self._device)
            padded_to = tokens["input_ids"].shape[1] if self._family.padding == "max_length" else -1
            return traced_texts(tower, tokens, output=self._family.text_output, padded_to=padded_to)

        return open_tower(
            traced,
            Conversion(self._backend, "text", self._spec.fingerprint, tuple(tokens), "float32", self._cache_dir),
        )


def huggingface_spec(name: str, folder: Path, *, dtype: str, cache_dir: Path | None) -> EncoderSpec:
    """The specification of the model in `folder`, called `name`; hashes the weights but loads none.

    The fingerprint covers weights, the arithmetic that they do not show, preprocessing, the image tower's dtype and
    dim. Not the tokenizer: it decides queries, not stored vectors, and equal ones are saved in several ways.

    Raises:
        EncoderUnavailableError: files are missing, or the family or preprocessing is not supported.
    """
    config = _read_config(folder)
    family = _family_of(config, folder)
    read = partial(_read_preprocessing, folder, family, image_size=config.vision_config.image_size)
    preprocessing = remembered_preprocessing(read, folder, cache_dir=cache_dir)
    dim = int(config.projection_dim if config.model_type == "clip" else config.vision_config.hidden_size)
    parts = {
        "files": digest_of_files(weight_files(folder), cache_dir=cache_dir),
        "model_type": config.model_type,
        "towers": [
            {key: getattr(tower, key) for key in _ARITHMETIC} for tower in (config.vision_config, config.text_config)
        ],
    }
    weights_sha256 = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    fingerprint = fingerprint_of(weights_sha256=weights_sha256, preprocessing=preprocessing, dtype=dtype, dim=dim)
    return EncoderSpec(name, short_name(name), fingerprint, dim, dtype, preprocessing)


def short_name(name: str) -> str:
    """`openai/clip-vit-large-patch14` -> `clip-ViT-L-14`; else the last component of the id or path."""
    last = name.rstrip("/").rpartition("/")[2]
    match = re.fullmatch(r"clip-vit-(base|large|huge|giant)-patch(\d+)(-\d+)?", last, re.IGNORECASE)
    if match is None:
        return last
    return f"clip-ViT-{_CLIP_SIZES[match[1].lower()]}-{match[2]}{match[3] or ''}"


def _read_config(folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise EncoderUnavailableError(
            f"{folder} has no configuration that transformers {transformers.__version__} reads "
            f"({_first_line(error)}); name the folder or hub id of a CLIP or SigLIP model"
        ) from error


def _family_of(config: Any, folder: Path) -> Family:
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise EncoderUnavailableError(
            f"{folder} holds a model of type {config.model_type!r}; supported are {', '.join(FAMILIES)} "
            "(CLIP, and SigLIP 1 and 2 with a fixed resolution)"
        )
    return family


def _read_preprocessing(folder: Path, family: Family, *, image_size: int) -> Preprocessing:
    """The model's own preprocessing in this project's terms.

    Raises:
        EncoderUnavailableError: there is none, or one that decoding here would not reproduce exactly.
    """
    try:
        with _quiet_transformers():
            processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise EncoderUnavailableError(
            f"{folder} has no preprocessor_config.json that can be read ({_first_line(error)}); add the model's"
        ) from error
    is_known = type(processor).__name__.startswith(family.image_processor)
    preprocessing = _in_own_terms(processor) if is_known else None
    if preprocessing is None or not preprocessing.height == preprocessing.width == image_size:
        stated = " ".join(processor.to_json_string().split())
        raise EncoderUnavailableError(
            f"{folder} asks for preprocessing that is not supported: {stated}. "
            f"Supported are a {family.image_processor} that resizes the short side and crops the centre, or resizes "
            f"to a square, to {image_size} x {image_size} pixels, bicubic or bilinear, rescales by 1/255, normalises"
        )
    return preprocessing


def _in_own_terms(processor: Any) -> Preprocessing | None:
    """None where the processor does what `Preprocessing` cannot say, or leaves out what it always does."""
    steps = (processor.do_resize, processor.do_rescale, processor.do_normalize)
    resample = _RESAMPLE.get(processor.resample)
    if not all(steps) or resample is None or abs(processor.rescale_factor * 255 - 1) > 1e-6:
        return None
    crop = processor.crop_size if getattr(processor, "do_center_crop", None) else None
    shortest, height, width = processor.size.shortest_edge, processor.size.height, processor.size.width
    if shortest is None and (crop is None or (crop.height, crop.width) == (height, width)):
        resize, size = "exact", height
    elif shortest is not None and crop is not None and max(crop.height, crop.width) <= shortest:
        resize, size, height, width = "shortest", shortest, crop.height, crop.width
    else:
        return None
    mean, std = ((float(r), float(g), float(b)) for r, g, b in (processor.image_mean, processor.image_std))
    return Preprocessing(resize, int(size), int(height), int(width), resample, mean, std)


def _load_vision(folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    return _load_tower(FAMILIES[config.model_type].vision_class, folder, _tower_config(config, "vision_config"),
                       dtype=dtype, device=device)  # fmt: skip


def _load_text(folder: Path, config: Any, device: torch.device) -> nn.Module:
    return _load_tower(FAMILIES[config.model_type].text_class, folder, _tower_config(config, "text_config"),
                       dtype=torch.float32, device=device)  # fmt: skip


def _tower_config(config: Any, key: str) -> Any:
    tower = getattr(config, key)
    if config.model_type == "clip":
        # A whole CLIP model projects to its own `projection_dim`; those of its towers are often left at a default.
        tower.projection_dim = config.projection_dim
    return tower


def _load_tower(class_name: str, folder: Path, config: Any, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    with _quiet_transformers(), memory_errors():
        model, report = getattr(transformers, class_name).from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    wrong = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if wrong:
        raise EncoderUnavailableError(
            f"the weights in {folder} lack {len(wrong)} tensors of {class_name}, first {wrong[0]}; download them again"
        )
    return model.eval().requires_grad_(False).to(device)


def _read_logit_scale(folder: Path) -> float:
    for path in weight_files(folder):
        tensor = _read_tensor(path, "logit_scale")
        if tensor is not None and tensor.numel() == 1:
            return math.exp(float(tensor))
    raise EncoderUnavailableError(
        f"the weights in {folder} lack logit_scale, so cosines cannot become confidences; download them again"
    )


def _read_tensor(path: Path, name: str) -> Tensor | None:
    """One tensor of a weight file, or None where it is not in there."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 - not a mapping
    # Mapped, so that one number does not cost a gigabyte; what torch wrote before 1.6 is no archive and has no map.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)).get(name)


def _load_tokenizer(folder: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EncoderUnavailableError(
            f"{folder} has no tokenizer that can be read ({_first_line(error)}); add the model's"
        ) from error


def _nothing() -> None:
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar, and no report that the other tower's weights were not used: that is the intention here."""
    log = transformers.utils.logging
    verbosity, has_bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if has_bar:
            log.enable_progress_bar()


def _unit_length(vectors: Tensor) -> EmbeddingMatrix:
    # In float32: a bfloat16 norm of 768 squares keeps two decimal digits.
    return functional.normalize(vectors.float(), dim=1).cpu().numpy()
