"""The encoder of the served store, loaded once in the background; queries wait for it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Literal, TypeAlias

from clip_pipeline.core.encoder import EmbeddingMatrix, Encoder, EncoderSpec, PixelBatch
from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.core.pinning import check_same_encoder
from clip_pipeline.serving.background import in_background
from clip_pipeline.serving.text_batches import TextBatches

LoadEncoder: TypeAlias = Callable[[EncoderSpec], Encoder]

RETRY_S = 30.0
PATIENCE_S = 120.0
"""How long a query waits for the weights; a first download takes longer, and is told so."""


class EncoderSlot:
    """Room for one encoder. A load that failed is tried again, at most every `RETRY_S`."""

    def __init__(self, spec: EncoderSpec, load: LoadEncoder) -> None:
        self._spec = spec
        self._load = load
        self._loading: Future[TextBatches] | None = None
        self._begun_at = 0.0
        self._starting = threading.Lock()

    @property
    def state(self) -> Literal["idle", "loading", "ready", "failed"]:
        """Where the loading stands."""
        loading = self._loading
        if loading is None:
            return "idle"
        if not loading.done():
            return "loading"
        return "ready" if loading.exception() is None else "failed"

    @property
    def fault(self) -> str | None:
        """Why the last load failed, or None."""
        loading = self._loading
        error = loading.exception() if loading is not None and loading.done() else None
        return None if error is None else str(error) or type(error).__name__

    def start(self) -> "Future[TextBatches]":
        """Begin to load, unless that is done, under way, or failed a moment ago."""
        with self._starting:
            stale = self.state == "failed" and time.monotonic() - self._begun_at > RETRY_S
            if self._loading is None or stale:
                self._begun_at = time.monotonic()
                self._loading = in_background(self._make, name="load-encoder")
            return self._loading

    def text_vector(self, text: str) -> EmbeddingMatrix:
        """The embedding of one text, float32 [1, d], unit length, read-only; waits for the encoder.

        Raises:
            EncoderUnavailableError: it is still loading after `PATIENCE_S`, cannot be loaded, or is being closed.
            FingerprintMismatchError: what was loaded is not the encoder of the store.
        """
        return self._loaded().text(text).result()

    def image_vector(self, pixels: PixelBatch) -> EmbeddingMatrix:
        """The embeddings of pixels, float32 [n, d], unit length; waits and raises as `text_vector`."""
        return self._loaded().image(pixels).result()

    def close(self) -> None:
        """Refuse the queries that wait for a loaded encoder. A loading under way is left to itself."""
        loading = self._loading
        if loading is not None and self.state == "ready":
            loading.result().close()

    def _loaded(self) -> TextBatches:
        try:
            return self.start().result(timeout=PATIENCE_S)
        except TimeoutError as error:
            raise EncoderUnavailableError(
                f"{self._spec.name} is still loading after {PATIENCE_S:.0f} s; try again later"
            ) from error

    def _make(self) -> TextBatches:
        encoder = self._load(self._spec)
        check_same_encoder(self._spec, encoder.spec)
        # Towers load at their first use; this is the text tower's, so that no query pays for it.
        encoder.encode_texts(["a photograph"])
        return TextBatches(encoder)


def encoder_loader(cache_dir: Path, *, backend: Literal["auto", "torch", "openvino"] = "auto") -> LoadEncoder:
    """Loads the pinned encoder for queries, on the CPU."""

    def load(spec: EncoderSpec) -> Encoder:
        # Imports torch, which takes seconds: here, in the background, the service answers meanwhile.
        from clip_pipeline.embedding.registry import load_text_encoder  # noqa: PLC0415

        return load_text_encoder(spec, backend=backend, cache_dir=cache_dir)

    return load
