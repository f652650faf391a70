"""What the isolated process does with an uploaded query image. Imports torch, so nothing imports it early."""

from dataclasses import dataclass

import numpy as np

from clip_pipeline.core.encoder import PixelBatch, Preprocessing
from clip_pipeline.core.image_file import read_file
from clip_pipeline.core.image_header import pillow_without_limits
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason
from clip_pipeline.embedding.decode import decode_into


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """One image file to decode. path: text form."""

    path: str
    preprocessing: Preprocessing
    limits: ImageLimits


def decode_file(task: DecodeTask) -> PixelBatch | Reason:
    """The encoder's pixels of one file, uint8 [1, 3, h, w], or why there are none."""
    content = read_file(task.path, max_bytes=task.limits.max_bytes)
    if isinstance(content, Reason):
        return content
    pixels = np.zeros((1, 3, task.preprocessing.height, task.preprocessing.width), np.uint8)
    with pillow_without_limits():
        reason = decode_into(content.data, pixels[0], preprocessing=task.preprocessing, limits=task.limits)
    return pixels if reason is None else reason
