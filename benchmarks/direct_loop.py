"""The encoder in a loop, no service: `python -m benchmarks.direct_loop HOME PICTURES ENCODER`. Not for people.

For each line `IMAGES BATCH` on standard input it decodes and encodes so many pictures, so many at a time, scores them
against ten labels and prints the seconds: what `benchmarks.analysis` compares the analysis lane with.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.analysis_load import LABELS
from clip_pipeline.core.encoder import Encoder, PixelBatch
from clip_pipeline.core.image_header import pillow_without_limits
from clip_pipeline.core.label_scores import confidences
from clip_pipeline.core.label_set import ad_hoc_labels
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.embedding.decode import decode_into
from clip_pipeline.embedding.registry import ensure_pinned
from clip_pipeline.embedding.zero_shot import embed_labels
from clip_pipeline.settings import Settings


def main() -> None:
    """Answer one line for each line."""
    home, folder, encoder_name = sys.argv[1:]
    settings = Settings(home=Path(home), encoder=encoder_name)
    encoder = ensure_pinned(
        settings.store, settings.encoder, device=settings.device, cache_dir=settings.home_path / "cache"
    ).encoder
    score = _scorer(encoder)
    pictures = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]
    for line in ("16 16", "4 1"):  # warms both ways of going about it
        _timed(encoder, score, pictures, line)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_timed(encoder, score, pictures, line)) + "\n")
        sys.stdout.flush()


def _scorer(encoder: Encoder) -> Callable[[PixelBatch], object]:
    labels = embed_labels(encoder, ad_hoc_labels(LABELS.split(",")))
    return lambda pixels: confidences(encoder.encode_images(pixels), labels, logit_scale=encoder.logit_scale)


def _timed(
    encoder: Encoder, score: Callable[[PixelBatch], object], pictures: list[bytes], line: str
) -> dict[str, float]:
    images, batch = map(int, line.split())
    prepared = encoder.spec.preprocessing
    pixels = np.empty((batch, 3, prepared.height, prepared.width), np.uint8)
    began, decoding_s = time.perf_counter(), 0.0
    with pillow_without_limits():
        for first in range(0, images, batch):
            started = time.perf_counter()
            for slot in range(batch):
                data = pictures[(first + slot) % len(pictures)]
                hashlib.sha256(data).hexdigest()
                reason = decode_into(data, pixels[slot], preprocessing=prepared, limits=ImageLimits())
                assert reason is None, reason
            decoding_s += time.perf_counter() - started
            score(pixels)
    return {"images": images, "seconds": time.perf_counter() - began, "decoding_s": decoding_s}


if __name__ == "__main__":
    main()
