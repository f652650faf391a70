"""Labels to vectors: the mean of a label's prompts. Scoring images with them is `core.label_scores`."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix, Encoder
from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.embedding.forward import EmbeddingVector

# 31 MB at 768 dimensions; two label sets of the largest size.
KEPT_LABELS = 10_000
_SMALLEST_NORM = 1e-6


def embed_labels(encoder: Encoder, label_set: LabelSet) -> EmbeddingMatrix:
    """One vector for each label, float32 [c, d], unit length: the mean of its prompts' vectors, normalised.

    Raises:
        IntegrityError: the encoder makes no usable vector of a label.
        EncoderUnavailableError: at first use of the text tower, where its weights are not what they should be.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section
    3.1.4: an ensemble over the embedding space, not over probabilities.
    """
    return _embed(encoder, label_set, label_set.labels)


class LabelEmbedder:
    """As `embed_labels`, and remembers the labels used last, so that requests that repeat theirs cost nothing.

    Safe to share between threads; two that miss the same label both embed it.
    """

    def __init__(self, encoder: Encoder, *, keep: int = KEPT_LABELS) -> None:
        """keep: how many labels are remembered."""
        self._encoder = encoder
        self._keep = keep
        self._kept: OrderedDict[tuple[tuple[str, ...], str], EmbeddingVector] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, label_set: LabelSet) -> EmbeddingMatrix:
        """As `embed_labels`."""
        known = self._recall(label_set)
        missing = [label for label in label_set.labels if label not in known]
        if missing:
            fresh = _embed(self._encoder, label_set, missing)
            known |= dict(zip(missing, fresh, strict=True))
            self._remember(label_set, missing, fresh)
        return np.stack([known[label] for label in label_set.labels])

    def _recall(self, label_set: LabelSet) -> dict[str, EmbeddingVector]:
        found: dict[str, EmbeddingVector] = {}
        with self._lock:
            for label in label_set.labels:
                key = (label_set.templates, label)
                if key in self._kept:
                    self._kept.move_to_end(key)
                    found[label] = self._kept[key]
        return found

    def _remember(self, label_set: LabelSet, labels: Sequence[str], vectors: EmbeddingMatrix) -> None:
        with self._lock:
            for label, vector in zip(labels, vectors, strict=True):
                self._kept[label_set.templates, label] = vector.copy()  # a view would keep the whole matrix alive
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)


def _embed(encoder: Encoder, label_set: LabelSet, labels: Sequence[str]) -> EmbeddingMatrix:
    prompts = [prompt for label in labels for prompt in label_set.prompts(label)]
    vectors = np.asarray(encoder.encode_texts(prompts), np.float32)
    means = vectors.reshape(len(labels), len(label_set.templates), -1).mean(axis=1)
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(norms[:, 0] > _SMALLEST_NORM) | ~np.isfinite(norms[:, 0]))
    if wrong.size:
        raise IntegrityError(
            f"{encoder.spec.name} makes no vector of {wrong.size} labels, first of {labels[wrong[0]]!a}; use "
            "other labels"
        )
    return means / norms
