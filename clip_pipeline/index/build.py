"""FAISS indexes from blocks of vectors: made, trained, filled, written. Which vectors is decided elsewhere."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import faiss
import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.metrics import tie_aware_recall_at_k
from clip_pipeline.index.choice import IndexChoice
from clip_pipeline.index.source import VectorBlock

FaissIndex: TypeAlias = Any
UNTYPED_FAISS: Any = faiss
"""FAISS's types leave out what SWIG and its loader add at run time (keyword parameters, enumerations)."""

TRAINING_ROWS_PER_LIST = 64
TUNED_RECALL, TUNED_K, TUNING_QUERIES = 0.99, 10, 100
_FIRST_PROBES = 16
_SEED = 20_240_229


def build_index(choice: IndexChoice, dim: int, *, rows: int, blocks: Callable[[], Iterator[VectorBlock]]) -> FaissIndex:
    """An index of all vectors that `blocks()` yields, under their image ids.

    rows: how many that are. `blocks` is called once for a flat index, twice for one that has to be trained. The same
    blocks give the same index.
    """
    if not choice.lists:
        return _filled(_flat_index(dim), blocks())
    sample = training_sample(blocks(), rows=rows, wanted=choice.lists * TRAINING_ROWS_PER_LIST)
    index = _inverted_index(choice, dim)
    index.train(sample)
    _filled(index, blocks())
    index.nprobe = tuned_probes(index, sample[:: max(1, len(sample) // TUNING_QUERIES)][:TUNING_QUERIES])
    return index


def training_sample(blocks: Iterable[VectorBlock], *, rows: int, wanted: int) -> EmbeddingMatrix:
    """`wanted` of the `rows` vectors, float32 [<=wanted, d], drawn evenly with a fixed seed, in their order."""
    chosen = np.sort(np.random.default_rng(_SEED).permutation(rows)[:wanted])
    parts: list[EmbeddingMatrix] = []
    start = 0
    for block in blocks:
        stop = start + len(block.ids)
        inside = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)]
        parts.append(block.vectors[inside - start])
        start = stop
    return np.concatenate(parts)


def tuned_probes(index: FaissIndex, queries: EmbeddingMatrix) -> int:
    """The smallest doubling of 16 lists that finds 99 % of what all lists would, measured on `queries`."""
    k = min(TUNED_K, index.ntotal)
    truth, _ = index.search(queries, k, params=UNTYPED_FAISS.SearchParametersIVF(nprobe=index.nlist))
    probes = min(_FIRST_PROBES, index.nlist)
    while probes < index.nlist:
        found, _ = index.search(queries, k, params=UNTYPED_FAISS.SearchParametersIVF(nprobe=probes))
        if tie_aware_recall_at_k(found, truth, k=k, tolerance=0.0) >= TUNED_RECALL:
            break
        probes = min(2 * probes, index.nlist)
    return probes


def write_index(index: FaissIndex, path: Path) -> None:
    """Write an index file.

    Raises:
        StoreError: the disk is full or does not take it.
    """
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise StoreError(f"{path} could not be written ({_first_line(error)}); free some space and merge") from error


def read_index(path: Path) -> FaissIndex:
    """An index file, mapped read-only: it stays usable when its name is removed, and its pages are shared.

    `IO_FLAG_MMAP_IFC` and not `IO_FLAG_MMAP`: measured with FAISS 1.15, the latter reads a flat index into memory.

    Raises:
        StoreError: it is not there or is no index.
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise StoreError(
            f"{path} is not readable as an index ({_first_line(error)}); materialize merged_index"
        ) from error


def _filled(index: FaissIndex, blocks: Iterable[VectorBlock]) -> FaissIndex:
    for block in blocks:
        index.add_with_ids(block.vectors, block.ids)
    return index


def _flat_index(dim: int) -> FaissIndex:
    stored = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    return faiss.IndexIDMap2(stored)


def _inverted_index(choice: IndexChoice, dim: int) -> FaissIndex:
    is_fp16 = choice.codec == "fp16"
    codec = faiss.ScalarQuantizer.QT_fp16 if is_fp16 else faiss.ScalarQuantizer.QT_8bit
    # Residuals of float16 vectors would be rounded a second time; as they are, they are kept exactly.
    by_residual = not is_fp16
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, choice.lists, codec, faiss.METRIC_INNER_PRODUCT, by_residual
    )
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = TRAINING_ROWS_PER_LIST
    return index


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][-200:]
