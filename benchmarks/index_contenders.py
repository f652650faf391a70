"""The indexes that are compared: each is built, added to, removed from, saved, loaded and searched in the same words.

Ids are positions. What is not our own comes from `.venv/bench-index`, see benchmarks/requirements-index.txt.
"""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.index_vectors import DIM, blocks, made_up_spec
from clip_pipeline.core.embeddings import VECTORS
from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.metrics import IdMatrix
from clip_pipeline.core.store import Store
from clip_pipeline.index.source import VectorBlock

PACKAGES = Path(__file__).resolve().parent.parent / ".venv" / "bench-index"
CONNECTIVITY, EF_CONSTRUCTION = 16, 200
EFFORTS = (16, 32, 64, 128, 256, 512)
Ids = npt.NDArray[np.int64]


class Searched(Protocol):
    """efforts: settings of the search from cheap to dear; none where there is nothing to set."""

    efforts: tuple[int, ...]

    def set_effort(self, effort: int) -> None: ...  # noqa: D102
    def search(self, queries: EmbeddingMatrix, k: int) -> IdMatrix: ...  # noqa: D102


class Contender(Searched, Protocol):
    """An index of the first batches of a store, saved in a folder of its own. described: what it turned out to be."""

    described: str

    def build(self, store: Store, batches: int) -> None: ...  # noqa: D102
    def add(self, block: VectorBlock) -> None: ...  # noqa: D102
    def remove(self, ids: Ids) -> None:
        """Raises NotImplementedError where it cannot."""

    def save(self, folder: Path) -> None: ...  # noqa: D102
    def load(self, folder: Path) -> None: ...  # noqa: D102


class Faiss:
    """What is common to indexes that FAISS holds."""

    efforts: tuple[int, ...] = ()
    described = ""
    index: Any = None

    def add(self, block: VectorBlock) -> None:
        """As a user would, in place."""
        self.index.add(block.vectors)

    def remove(self, ids: Ids) -> None:
        """Positions after a removed one move, as FAISS has it."""
        try:
            self.index.remove_ids(ids)
        except RuntimeError as error:
            raise NotImplementedError from error

    def save(self, folder: Path) -> None:
        """One file."""
        faiss.write_index(self.index, str(folder / "index.faiss"))

    def load(self, folder: Path) -> None:
        """Mapped where FAISS can map the type, read into memory where it cannot."""
        self.index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)

    def set_effort(self, effort: int) -> None:
        """For each type by its own name."""
        raise NotImplementedError

    def search(self, queries: EmbeddingMatrix, k: int) -> IdMatrix:
        """int64 [q, k]."""
        return self.index.search(queries, k)[1]


class FlatIP(Faiss):
    """`faiss.IndexFlatIP`: float32, everything compared."""

    described = "faiss.IndexFlatIP, float32"

    def build(self, store: Store, batches: int) -> None:
        """Nothing but copying."""
        self.index = faiss.IndexFlatIP(DIM)
        for block in blocks(store, batches):
            self.add(block)


class AutoFaiss(Faiss):
    """What `autofaiss.build_index` chooses, trains, fills and tunes (10 ms a query) within a limit of memory."""

    def __init__(self, limit: str | None) -> None:
        """limit: of the index, as autofaiss writes it; None for what ours takes."""
        self._limit = limit

    def build(self, store: Store, batches: int) -> None:
        """From the sealed vectors on disk, which is how autofaiss is fed."""
        autofaiss = _package("autofaiss")
        choose = importlib.import_module("autofaiss.external.optimize").get_optimal_index_keys_v2
        # Its own for OPQ names a parameter `M` that FAISS 1.15 does not take; FAISS's makes the same of these names.
        training: Any = importlib.import_module("autofaiss.indices.training")
        training.index_factory = faiss.index_factory
        limit = self._limit or f"{batches * 10_000 * (2 * DIM + 8) / 1e9:.4f}GB"
        folders = [store.embeddings_dir(made_up_spec().key, BatchKey(n)) for n in range(1, batches + 1)]
        with _Linked(store.root / "for-autofaiss", folders) as sources:
            self.index, told = autofaiss.build_index(
                str(sources), save_on_disk=False, max_index_memory_usage=limit, current_memory_available="16GB",
                metric_type="ip", verbose=30, index_path=None, index_infos_path=None,
            )  # fmt: skip
        choices = choose(batches * 10_000, DIM, limit)
        self.described = f"autofaiss within {limit}: {told['index_key']}, {told['index_param']} (of {choices[:3]})"


class Hnswlib:
    """hnswlib, float32, inner product."""

    efforts: tuple[int, ...] = EFFORTS
    described = f"hnswlib, float32, M={CONNECTIVITY}, ef_construction={EF_CONSTRUCTION}"
    _index: Any

    def build(self, store: Store, batches: int) -> None:
        """With all cores; room for what is added later."""
        self._index = _package("hnswlib").Index(space="ip", dim=DIM)
        self._index.init_index(
            max_elements=(batches + 1) * 10_000, M=CONNECTIVITY, ef_construction=EF_CONSTRUCTION, random_seed=1
        )
        for block in blocks(store, batches):
            self.add(block)

    def add(self, block: VectorBlock) -> None:
        """In place."""
        self._index.add_items(block.vectors, block.ids)

    def remove(self, ids: Ids) -> None:
        """Marked, as our own dead rows are."""
        for label in ids.tolist():
            self._index.mark_deleted(label)

    def save(self, folder: Path) -> None:
        """One file."""
        self._index.save_index(str(folder / "index.hnsw"))

    def load(self, folder: Path) -> None:
        """Into memory: it cannot be mapped."""
        self._index = _package("hnswlib").Index(space="ip", dim=DIM)
        self._index.load_index(str(folder / "index.hnsw"))
        self._index.set_num_threads(1)

    def set_effort(self, effort: int) -> None:
        """`ef`."""
        self._index.set_ef(effort)

    def search(self, queries: EmbeddingMatrix, k: int) -> IdMatrix:
        """int64 [q, k]."""
        return self._index.knn_query(queries, k=k)[0].astype(np.int64)


class Usearch:
    """usearch, float16 as the vectors are stored, inner product."""

    efforts: tuple[int, ...] = EFFORTS
    described = f"usearch, float16, connectivity={CONNECTIVITY}, expansion_add={EF_CONSTRUCTION}"
    _index: Any

    def build(self, store: Store, batches: int) -> None:
        """With all cores."""
        self._index = _package("usearch.index").Index(
            ndim=DIM, metric="ip", dtype="f16", connectivity=CONNECTIVITY, expansion_add=EF_CONSTRUCTION
        )
        for block in blocks(store, batches):
            self.add(block)

    def add(self, block: VectorBlock) -> None:
        """In place."""
        self._index.add(block.ids.astype(np.uint64), block.vectors.astype(np.float16))

    def remove(self, ids: Ids) -> None:
        """Marked, and its place used again by what is added later."""
        self._index.remove(ids.astype(np.uint64))

    def save(self, folder: Path) -> None:
        """One file."""
        self._index.save(str(folder / "index.usearch"))

    def load(self, folder: Path) -> None:
        """Mapped."""
        self._index = _package("usearch.index").Index.restore(str(folder / "index.usearch"), view=True)

    def set_effort(self, effort: int) -> None:
        """`expansion_search`."""
        self._index.expansion_search = effort

    def search(self, queries: EmbeddingMatrix, k: int) -> IdMatrix:
        """int64 [q, k]."""
        found = self._index.search(queries.astype(np.float16), k, threads=1).keys
        return np.asarray(found).reshape(len(queries), k).astype(np.int64)


class _Linked:
    """A folder with a name for each batch's vectors, in order, as autofaiss reads them."""

    def __init__(self, folder: Path, batches: list[Path]) -> None:
        self._folder, self._batches = folder, batches

    def __enter__(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for batch in self._batches:
            (self._folder / f"{batch.name}.npy").hardlink_to(batch / VECTORS)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)


def _package(name: str) -> Any:
    if str(PACKAGES) not in sys.path:
        sys.path.append(str(PACKAGES))  # last, so that what is installed for the product wins
    return importlib.import_module(name)
