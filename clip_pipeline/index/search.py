"""Search in one release: its segments opened together, dead rows excluded, results merged. Read-only."""

import threading
from collections.abc import Collection, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from clip_pipeline.core.embeddings import check_files
from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import FingerprintMismatchError, IntegrityError, NotFoundError, QueryError, StoreError
from clip_pipeline.core.metrics import IdMatrix, ScoreMatrix
from clip_pipeline.core.release import IdArray, Release, Segment, read_release, read_segment_rows
from clip_pipeline.core.store import Store
from clip_pipeline.index.build import UNTYPED_FAISS, FaissIndex, read_index
from clip_pipeline.index.id_sets import are_in, distinct, without

MAX_K = 1000
_TIE_MARGIN = 16
_WIDEST = 8192
_OPEN_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """scores: float32 [q, k], best first; ids: int64 [q, k]. Where fewer than k images are found, id -1, score -inf.
    Equal scores are ordered by image id."""

    scores: ScoreMatrix
    ids: IdMatrix


class ReleaseReader:
    """One open release. Any number of threads may search it at once.

    Its files are mapped, so it keeps answering after newer releases are published and after its own is pruned.
    """

    def __init__(self, folder: Path, release: Release, *, verify: bool = True) -> None:
        """Opens the release in `folder`, which need not be published.

        Raises:
            IntegrityError: a file fails its digest (with `verify`), or files do not fit together.
            StoreError: a file is missing or unreadable.
        """
        if verify:
            for segment in release.segments:
                check_files(folder, segment.files)
        self._release = release
        self._segments: tuple[_OpenSegment, ...] | None = tuple(
            _OpenSegment(folder, segment, dim=release.dim) for segment in release.segments
        )

    @classmethod
    def open(cls, store: Store, encoder_key: str, *, number: int | None = None, verify: bool = True) -> "ReleaseReader":
        """The release `number`, or the current one.

        Raises:
            NotFoundError: there is no such release, or none is published yet.
            IntegrityError: a file fails its digest.
        """
        for attempt in range(_OPEN_ATTEMPTS):
            wanted = store.current_release_number(encoder_key) if number is None else number
            if wanted is None:
                raise NotFoundError(f"no release of {encoder_key} is published yet; materialize merged_index")
            try:
                release = read_release(store, encoder_key, wanted)
                return cls(store.release_dir(encoder_key, wanted), release, verify=verify)
            except (NotFoundError, StoreError):
                # It may have been superseded and pruned since CURRENT was read; then the next look finds another.
                moved_on = number is None and store.current_release_number(encoder_key) != wanted
                if not moved_on or attempt == _OPEN_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    @property
    def release(self) -> Release:
        """What the open release states about itself."""
        return self._release

    def check_fingerprint(self, spec: EncoderSpec) -> None:
        """Raises FingerprintMismatchError unless vectors of `spec` may be searched in this release."""
        if spec.fingerprint != self._release.fingerprint:
            raise FingerprintMismatchError(
                f"release {self._release.number} was built with {self._release.encoder_name} "
                f"({self._release.fingerprint[:12]}), the query comes from {spec.name} ({spec.fingerprint[:12]}); "
                "use the release's encoder, or build an index with the other one"
            )

    def search(self, queries: EmbeddingMatrix, k: int, *, allowed: IdArray | None = None) -> SearchResult:
        """The k best live images of each query, by inner product.

        queries: float32 [q, d], unit length. allowed: int64, any order; only these images may be found, and among
        them the search is exact.

        Raises:
            QueryError: the queries have another shape or are not finite, or k is not in 1 to 1000.
        """
        points = _checked_queries(queries, dim=self._release.dim)
        if not 1 <= k <= MAX_K:
            raise QueryError(f"expected k in 1 to {MAX_K}, got {k}")
        ids = None if allowed is None else distinct(np.asarray(allowed, dtype=np.int64))
        with _one_core() if len(points) == 1 else nullcontext():
            parts = [segment.search(points, k, allowed=ids) for segment in self._opened()]
        return _best(parts, queries=len(points), k=k)

    def search_fully(self, queries: EmbeddingMatrix, k: int, *, segments: Collection[str]) -> SearchResult:
        """The k best live images of the named segments, by comparing everything that these hold.

        queries: float32 [q, d], unit length. Costs as much as a flat search, whatever the segments are.
        """
        parts = [segment.search_fully(queries, k) for segment in self._opened() if segment.name in segments]
        return _best(parts, queries=len(queries), k=k)

    def contains(self, image_id: int) -> bool:
        """True when a search can find this image."""
        return any(segment.holds(image_id) for segment in self._opened())

    def vector(self, image_id: int) -> EmbeddingMatrix | None:
        """The vector of one live image, float32 [d], or None when the release does not hold it."""
        for segment in self._opened():
            if segment.holds(image_id):
                return segment.vector(image_id)
        return None

    def live_ids(self) -> IdArray:
        """The ids of all live rows, int64 [n], ascending. An id twice means a fault, see `verify`."""
        parts = [segment.live_ids() for segment in self._opened()]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def stored_ids(self) -> dict[str, IdArray]:
        """What each index file itself holds, by segment name: int64, ascending, dead rows included."""
        return {segment.name: segment.stored_ids() for segment in self._opened()}

    def close(self) -> None:
        """Let go of the files. A search under way in another thread ends normally; a later one raises StoreError."""
        self._segments = None

    def _opened(self) -> "tuple[_OpenSegment, ...]":
        segments = self._segments
        if segments is None:
            raise StoreError(f"the reader of release {self._release.number} is closed; open the release again")
        return segments


class _OpenSegment:
    """One mapped index file with its id map."""

    def __init__(self, folder: Path, segment: Segment, *, dim: int) -> None:
        rows = read_segment_rows(folder, segment)
        index = read_index(folder / segment.index_file)
        if (index.ntotal, index.d, index.metric_type) != (segment.rows, dim, faiss.METRIC_INNER_PRODUCT):
            raise IntegrityError(
                f"{folder / segment.index_file} holds {index.ntotal} x {index.d} (metric {index.metric_type}), "
                f"expected {segment.rows} x {dim} by inner product; materialize merged_index"
            )
        self.name = segment.name
        self._index: FaissIndex = index
        self._lists = int(index.nlist) if isinstance(index, faiss.IndexIVF) else 0
        self._ids: IdArray = np.sort(rows.ids)
        self._dead = rows.dead
        # Membership tests do not change a selector, so all searches share it; parameters they do not, see below.
        self._not_dead = faiss.IDSelectorNot(faiss.IDSelectorBatch(rows.dead)) if rows.dead.size else None
        self._direct_map_lock = threading.Lock()
        self._has_direct_map = False

    def search(self, queries: EmbeddingMatrix, k: int, *, allowed: IdArray | None) -> tuple[ScoreMatrix, IdMatrix]:
        """At least the k best where there are as many; more where the k-th ties with what follows."""
        most = len(self._ids) - len(self._dead)
        selector = self._not_dead
        if allowed is not None:
            chosen = allowed[self._hold(allowed)]
            most, selector = len(chosen), faiss.IDSelectorBatch(chosen)
        if not most:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        # Few allowed images may lie in lists that are not probed.
        probes = self._lists if allowed is not None or not self._lists else int(self._index.nprobe)
        fetch = min(most, k + _TIE_MARGIN)
        while True:
            scores, ids = self._index.search(queries, fetch, params=self._parameters(selector, probes))
            if probes < self._lists and (ids[:, : min(k, fetch)] == -1).any():
                probes = self._lists
            elif fetch < min(most, _WIDEST) and _is_cut_in_a_tie(scores, ids, k):
                fetch = min(most, 8 * fetch)
            else:
                return np.where(ids == -1, np.float32(-np.inf), scores), ids

    def search_fully(self, queries: EmbeddingMatrix, k: int) -> tuple[ScoreMatrix, IdMatrix]:
        """The k best, every list probed; of those that tie at the k-th place any."""
        fetch = min(k, len(self._ids) - len(self._dead))
        scores, ids = self._index.search(queries, fetch, params=self._parameters(self._not_dead, self._lists))
        return np.where(ids == -1, np.float32(-np.inf), scores), ids

    def holds(self, image_id: int) -> bool:
        """True when the segment has a row of this image that is not dead."""
        return bool(self._hold(np.array([image_id], dtype=np.int64))[0])

    def vector(self, image_id: int) -> EmbeddingMatrix:
        """The vector of an image that the segment holds."""
        if self._lists:
            self._make_direct_map()
        return self._index.reconstruct(int(image_id))

    def live_ids(self) -> IdArray:
        """int64, ascending, not deduplicated."""
        return without(self._ids, self._dead)

    def stored_ids(self) -> IdArray:
        """The ids inside the index file, int64, ascending."""
        if not self._lists:
            return np.sort(UNTYPED_FAISS.vector_to_array(self._index.id_map))
        lists = self._index.invlists
        sizes = [(number, lists.list_size(number)) for number in range(self._lists)]
        parts = [UNTYPED_FAISS.rev_swig_ptr(lists.get_ids(number), size) for number, size in sizes if size]
        return np.sort(np.concatenate(parts))

    def _hold(self, image_ids: IdArray) -> npt.NDArray[np.bool_]:
        return are_in(self._ids, image_ids) & ~are_in(self._dead, image_ids)

    def _parameters(self, selector: object | None, probes: int) -> object:
        # New ones for each search: IndexIDMap2 replaces the selector inside them while it runs, so that threads
        # sharing one object would search with each other's, or with a freed one.
        chosen = {} if selector is None else {"sel": selector}
        if self._lists:
            return UNTYPED_FAISS.SearchParametersIVF(nprobe=probes, **chosen)
        return UNTYPED_FAISS.SearchParameters(**chosen)

    def _make_direct_map(self) -> None:
        with self._direct_map_lock:
            if not self._has_direct_map:
                self._index.set_direct_map_type(UNTYPED_FAISS.DirectMap.Hashtable)
                self._has_direct_map = True


@contextmanager
def _one_core() -> Generator[None]:
    """Searches of this thread use one core inside.

    A single query is one core's work, and the others would only wait for each other: 100k x 384 flat beside other busy
    processes on 2 cores, p50 7 ms with one and 40 ms with two. OpenMP keeps the setting for each thread apart.
    """
    before = UNTYPED_FAISS.omp_get_max_threads()
    UNTYPED_FAISS.omp_set_num_threads(1)
    try:
        yield
    finally:
        UNTYPED_FAISS.omp_set_num_threads(before)


def _checked_queries(queries: EmbeddingMatrix, *, dim: int) -> EmbeddingMatrix:
    points = np.ascontiguousarray(queries, dtype=np.float32)
    if points.ndim != 2 or points.shape[1] != dim:
        raise QueryError(f"expected queries of shape [q, {dim}], got {list(points.shape)}")
    if not np.isfinite(points).all():
        raise QueryError("expected finite queries, got NaN or infinity")
    return points


def _best(parts: list[tuple[ScoreMatrix, IdMatrix]], *, queries: int, k: int) -> SearchResult:
    """The k best over all segments, padded; equal scores by ascending id."""
    padding = (np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64))
    scores = np.concatenate([*(part[0] for part in parts), padding[0]], axis=1)
    ids = np.concatenate([*(part[1] for part in parts), padding[1]], axis=1)
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    return SearchResult(np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1))


def _is_cut_in_a_tie(scores: ScoreMatrix, ids: IdMatrix, k: int) -> bool:
    """True when the last row fetched scores as the k-th does: which of the equals came along is then chance."""
    if scores.shape[1] <= k:
        return False
    return bool(((scores[:, -1] == scores[:, k - 1]) & (ids[:, -1] != -1)).any())
