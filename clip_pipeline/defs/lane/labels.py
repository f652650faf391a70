"""Label vectors for the lane: those of named label sets are read from the store, or made once and kept there."""

from typing import TYPE_CHECKING

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import IntegrityError, NotFoundError
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.core.label_vectors import read_label_vectors, write_label_vectors
from clip_pipeline.core.store import Store

if TYPE_CHECKING:
    from clip_pipeline.embedding.zero_shot import LabelEmbedder


class LaneLabels:
    """The vectors of label sets, float32 [c, d]. A label set of 1,000 takes seconds to embed, and milliseconds here."""

    def __init__(self, store: Store, spec: EncoderSpec, embedder: "LabelEmbedder", *, logit_scale: float) -> None:
        self._store = store
        self._spec = spec
        self._embedder = embedder
        self._logit_scale = logit_scale
        self._named: dict[str, EmbeddingMatrix] = {}

    def embed(self, labels: LabelSet) -> EmbeddingMatrix:
        """One unit vector for each label.

        Raises:
            IntegrityError: the encoder makes no usable vector of a label.
        """
        if not labels.name:
            return self._embedder.embed(labels)
        if labels.digest not in self._named:
            self._named[labels.digest] = self._read(labels)
        return self._named[labels.digest]

    def _read(self, labels: LabelSet) -> EmbeddingMatrix:
        try:
            return read_label_vectors(self._store, self._spec, digest=labels.digest).vectors
        except (NotFoundError, IntegrityError):  # never made, or damaged
            vectors = self._embedder.embed(labels)
            write_label_vectors(
                self._store, self._spec, label_set=labels, vectors=vectors, logit_scale=self._logit_scale
            )
            return vectors
