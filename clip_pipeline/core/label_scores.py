"""From vectors to confidences: how well each label of a label set fits each image. Plain NumPy, any encoder."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.embeddings import StoredVectors
from clip_pipeline.core.encoder import EmbeddingMatrix

ConfidenceMatrix: TypeAlias = npt.NDArray[np.float32]
LabelIndices: TypeAlias = npt.NDArray[np.int32]

# Numbers of the largest intermediate matrix, float32: 16 MB, however many images and labels there are.
_NUMBERS_AT_ONCE = 4 * 1024**2


def confidences(
    vectors: EmbeddingMatrix | StoredVectors, label_vectors: EmbeddingMatrix, *, logit_scale: float
) -> ConfidenceMatrix:
    """The softmax over labels of scaled cosines, float32 [n, c]; each row sums to 1.

    vectors: [n, d]; label_vectors: float32 [c, d], c >= 1; both of unit length.

    Raises:
        ValueError: the two differ in d, or there is no label.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", section 3.1.2.
    """
    if vectors.ndim != 2 or label_vectors.ndim != 2 or vectors.shape[1] != label_vectors.shape[1]:
        raise ValueError(f"expected [n, d] and [c, d], got {vectors.shape} and {label_vectors.shape}")
    if not len(label_vectors):
        raise ValueError("expected at least one label, got none")
    logits = np.float32(logit_scale) * (np.asarray(vectors, np.float32) @ label_vectors.T)
    # The largest becomes exp(0): a scale of 100 would leave the range of float32 otherwise.
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def top_labels(
    vectors: EmbeddingMatrix | StoredVectors, label_vectors: EmbeddingMatrix, *, logit_scale: float, k: int
) -> tuple[LabelIndices, npt.NDArray[np.float16]]:
    """The k best labels of each image, best first: indices int32 [n, k] and their confidences float16 [n, k].

    k beyond c gives all c. Confidences are over all labels, so those of a row sum to 1 where k is c, else to less.
    Memory beyond the result does not grow with n: `vectors` may be mapped from a file.

    Raises:
        ValueError: k < 1, or as `confidences`.
    """
    if k < 1:
        raise ValueError(f"expected k of at least 1, got {k}")
    width = min(k, len(label_vectors))
    indices = np.empty((len(vectors), width), np.int32)
    best = np.empty((len(vectors), width), np.float16)
    for rows in _blocks(len(vectors), columns=max(1, len(label_vectors))):
        scores = confidences(vectors[rows], label_vectors, logit_scale=logit_scale)
        order = _best_columns(scores, width)
        indices[rows] = order
        best[rows] = np.take_along_axis(scores, order, axis=1)
    return indices, best


def _best_columns(scores: ConfidenceMatrix, k: int) -> npt.NDArray[np.intp]:
    """The columns of each row's k largest, largest first; of equal ones the earlier column first."""
    chosen = np.argpartition(scores, -k, axis=1)[:, -k:]
    chosen.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def _blocks(rows: int, *, columns: int) -> Iterator[slice]:
    step = max(1, _NUMBERS_AT_ONCE // columns)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
