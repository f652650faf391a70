"""Exact search by comparing everything, in plain NumPy: what recall is measured against. No FAISS here."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.metrics import IdMatrix, ScoreMatrix
from clip_pipeline.index.source import VectorBlock


@dataclass(frozen=True, slots=True, eq=False)
class ExactAnswer:
    """ids: int64 [q, k] and scores: float32 [q, k], the true best, best first, -1 and -inf where there are fewer than
    k; candidate_scores: float32 [q, m], the exact scores of the ids asked about, -inf for one that is not there."""

    ids: IdMatrix
    scores: ScoreMatrix
    candidate_scores: ScoreMatrix


def exact_search(
    blocks: Iterable[VectorBlock], queries: EmbeddingMatrix, *, k: int, candidates: IdMatrix
) -> ExactAnswer:
    """The k best of all blocks for each query, in float32; memory stays at one block.

    queries: float32 [q, d]. candidates: int64 [q, m], ids whose exact scores are wanted too. Of equal scores at the
    k-th place any may be in the answer; those in it are ordered by id.
    """
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    candidate_scores = np.full(candidates.shape, -np.inf, np.float32)
    for block in blocks:
        block_scores = queries @ block.vectors.T
        _look_up(candidates, block, block_scores=block_scores, into=candidate_scores)
        all_ids = np.concatenate([ids, np.broadcast_to(block.ids, block_scores.shape)], axis=1)
        all_scores = np.concatenate([scores, block_scores], axis=1)
        best = np.argpartition(-all_scores, k - 1, axis=1)[:, :k]
        ids, scores = np.take_along_axis(all_ids, best, axis=1), np.take_along_axis(all_scores, best, axis=1)
    order = np.lexsort((ids, -scores), axis=-1)
    return ExactAnswer(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1), candidate_scores)


def _look_up(candidates: IdMatrix, block: VectorBlock, *, block_scores: ScoreMatrix, into: ScoreMatrix) -> None:
    order = np.argsort(block.ids)
    ascending = block.ids[order]
    positions = np.minimum(np.searchsorted(ascending, candidates), len(ascending) - 1)
    hit = ascending[positions] == candidates
    into[hit] = np.take_along_axis(block_scores, order[positions], axis=1)[hit]
