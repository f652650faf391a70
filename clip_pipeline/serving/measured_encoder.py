"""An encoder whose forward passes of texts are counted."""

import time
from collections.abc import Sequence

from clip_pipeline.core.encoder import EmbeddingMatrix, Encoder, EncoderSpec, PixelBatch
from clip_pipeline.observability.metrics import Measures
from clip_pipeline.serving.encoder_slot import LoadEncoder


class MeasuredEncoder:
    """Does what `encoder` does."""

    def __init__(self, encoder: Encoder, measures: Measures) -> None:
        self._encoder = encoder
        self._measures = measures

    @property
    def spec(self) -> EncoderSpec:
        """That of the encoder."""
        return self._encoder.spec

    @property
    def logit_scale(self) -> float:
        """That of the encoder."""
        return self._encoder.logit_scale

    def encode_images(self, pixels: PixelBatch) -> EmbeddingMatrix:
        """As the encoder does."""
        return self._encoder.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str]) -> EmbeddingMatrix:
        """As the encoder does; counted where it succeeds."""
        started = time.perf_counter()
        vectors = self._encoder.encode_texts(texts)
        self._measures.count_texts(len(texts), seconds=time.perf_counter() - started)
        return vectors


def measured(load: LoadEncoder, measures: Measures) -> LoadEncoder:
    """Loads what `load` loads, measured."""
    return lambda spec: MeasuredEncoder(load(spec), measures)
