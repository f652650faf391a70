"""Measures of search quality."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IdMatrix: TypeAlias = npt.NDArray[np.int64]
ScoreMatrix: TypeAlias = npt.NDArray[np.float32]


def recall_at_k(found: IdMatrix, truth: IdMatrix, *, k: int) -> float:
    """Mean share of each query's true k nearest ids that appear among its first k results.

    found, truth: int64 [q, >=k], best first. -1 marks an empty slot and never matches; a query whose truth holds
    fewer than k ids is measured against those it has. Returns a fraction in [0, 1]; 1.0 when nothing was to be found.

    Raises:
        ValueError: k < 1, or either matrix has fewer than k columns, or they differ in q.

    Source: Jegou et al. 2011, "Product Quantization for Nearest Neighbor Search", sec. V
    (there: recall@R of the single nearest neighbour; here: k-recall@k).
    """
    if k < 1 or found.ndim != 2 or truth.ndim != 2 or min(found.shape[1], truth.shape[1]) < k:
        raise ValueError(f"expected two matrices of at least k={k} >= 1 columns, got {found.shape} and {truth.shape}")
    if len(found) != len(truth):
        raise ValueError(f"expected as many queries found as true, got {len(found)} and {len(truth)}")
    valid = truth[:, :k] != -1
    hits = (found[:, :k, None] == truth[:, None, :k]).any(axis=1) & valid
    return float(hits.sum() / valid.sum()) if valid.any() else 1.0


def tie_aware_recall_at_k(found: ScoreMatrix, truth: ScoreMatrix, *, k: int, tolerance: float) -> float:
    """Mean share of each query's first k results that score no lower than its true k-th best.

    found: float32 [q, >=k], the exact scores of what was found, in any order; truth: float32 [q, >=k], the true best
    scores, best first. -inf marks an empty slot. Unlike `recall_at_k`, copies of one picture count for each other:
    which of ten thousand equal vectors are "the nearest ten" is nobody's mistake. `tolerance` is in units of score.
    Returns a fraction in [0, 1]; 1.0 when nothing was to be found.

    Raises:
        ValueError: k < 1, or either matrix has fewer than k columns, or they differ in q.

    Source: Aumueller et al. 2020, "ANN-Benchmarks", sec. 2.2 (recall by distance to the k-th true neighbour).
    """
    if k < 1 or found.ndim != 2 or truth.ndim != 2 or min(found.shape[1], truth.shape[1]) < k:
        raise ValueError(f"expected two matrices of at least k={k} >= 1 columns, got {found.shape} and {truth.shape}")
    if len(found) != len(truth):
        raise ValueError(f"expected as many queries found as true, got {len(found)} and {len(truth)}")
    possible = np.isfinite(truth[:, :k]).sum(axis=1)
    if not possible.any():
        return 1.0
    asked = possible > 0
    worst = np.take_along_axis(truth[asked], possible[asked, None] - 1, axis=1)
    hits = (np.isfinite(found[asked, :k]) & (found[asked, :k] >= worst - tolerance)).sum(axis=1)
    return float(np.minimum(hits, possible[asked]).sum() / possible.sum())
