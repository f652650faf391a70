"""Answering searches: the pinned encoder, the served release and the ledger put together. No web framework here."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import FingerprintMismatchError, NotFoundError, StoreError
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.release import IdArray
from clip_pipeline.core.store import Store
from clip_pipeline.index.search import ReleaseReader, SearchResult
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.filters import images_that_fit
from clip_pipeline.ledger.lookup import image_id_of_path, images_by_id
from clip_pipeline.ledger.publishing import live_vectors
from clip_pipeline.serving.collection_labels import CollectionLabels
from clip_pipeline.serving.encoder_slot import EncoderSlot, LoadEncoder
from clip_pipeline.serving.filter_fields import SearchFilter
from clip_pipeline.serving.queries import (
    MAX_K,
    InvalidFieldError,
    PathQuery,
    Query,
    ScoredHit,
    SearchAnswer,
    TextQuery,
    UploadQuery,
    VectorQuery,
    Wanted,
)
from clip_pipeline.serving.query_images import QueryImages
from clip_pipeline.serving.release_watch import ReleaseWatch
from clip_pipeline.serving.timings import Stopwatch, Timings

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
FAULT_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class Served:
    """What a pinned store is searched with."""

    spec: EncoderSpec
    slot: EncoderSlot
    releases: ReleaseWatch


def _unobserved(_: Timings) -> None:
    """What nobody wants to know."""


class SearchEngine:
    """Searches of one store. Safe to share between threads; a search blocks, so it belongs in a thread of its own.

    A store that is not pinned to an encoder yet is looked at again until it is. `observe` is told of every search
    that was answered from a release, where its time went.
    """

    def __init__(
        self,
        store: Store,
        ledger: Ledger,
        *,
        load: LoadEncoder,
        images: QueryImages,
        observe: Callable[[Timings], None] = _unobserved,
    ) -> None:
        self._store = store
        self._ledger = ledger
        self._load = load
        self._images = images
        self._observe = observe
        self.labels = CollectionLabels(store, ledger)
        self._served: Served | None = None
        self._pinning = threading.Lock()
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch-store", daemon=True)

    def start(self) -> None:
        """Begin to load the encoder and to follow what is published, without waiting for either."""
        self._watcher.start()

    def close(self) -> None:
        """Stop following. Searches that wait for the encoder are refused, others under way end normally."""
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join()
        if self._served is not None:
            self._served.slot.close()
        self._images.close()

    def served(self) -> Served | None:
        """The encoder, loading or loaded, and the releases of the store; None before it is pinned.

        Raises:
            IntegrityError: what the store is pinned to cannot be read.
        """
        with self._pinning:
            if self._served is None and (spec := pinned_encoder(self._store)) is not None:
                self._served = Served(spec, EncoderSlot(spec, self._load), ReleaseWatch(self._store, spec))
                self._served.slot.start()
            return self._served

    def search(self, query: Query, wanted: Wanted) -> SearchAnswer:
        """The best live images for one query; none before there is an encoder and a release.

        Raises:
            QueryError: the query cannot be answered as it was put.
            NotFoundError: an image path that the index does not hold.
            EncoderUnavailableError: the encoder cannot be loaded, or not yet.
            FingerprintMismatchError: a vector of another encoder.
        """
        served = self.served()
        reader = served.releases.current() if served else None
        if isinstance(query, VectorQuery) and served is not None:
            check_fingerprint(query, served.spec)
        if served is None or reader is None:
            return SearchAnswer(served.spec.model_name if served else None, None, ())
        watch = Stopwatch()
        vector = self._vector(query, served, reader, watch=watch)
        finding = _Finding(reader, self._ledger, self.labels, vector, watch)
        hits = finding.live_hits(wanted.k) if wanted.filter is None else finding.fitting_hits(wanted.k, wanted.filter)
        if wanted.min_score is not None:
            hits = [hit for hit in hits if hit.score >= wanted.min_score]
        with watch.measure("labels"):
            best = self.labels.best_of([hit.image.image_id for hit in hits])
        hits = [replace(hit, labels=best.get(hit.image.image_id, ())) for hit in hits]
        timings = watch.timings()
        self._observe(timings)
        return SearchAnswer(served.spec.model_name, reader.release.number, hits, timings)

    def _vector(self, query: Query, served: Served, reader: ReleaseReader, *, watch: Stopwatch) -> EmbeddingMatrix:
        """The query as float32 [1, d], unit length."""
        match query:
            case TextQuery():
                with watch.measure("encode"):
                    return served.slot.text_vector(query.text)
            case UploadQuery():
                with watch.measure("decode"):
                    pixels = self._images.pixels(query.file, served.spec.preprocessing)
                with watch.measure("encode"):
                    return served.slot.image_vector(pixels)
            case PathQuery():
                with watch.measure("ledger"):
                    return self._vector_of_path(query.image_path, reader)
            case VectorQuery():
                return unit_vector(query.vector, dim=reader.release.dim)

    def _vector_of_path(self, path: str, reader: ReleaseReader) -> EmbeddingMatrix:
        image_id = image_id_of_path(self._ledger, path)
        vector = None if image_id is None else reader.vector(image_id)
        if vector is None:
            raise NotFoundError(
                f"the index holds no image at {path}; register it with `clip-pipeline index`, or upload it instead"
            )
        return vector[None, :]

    def _watch(self) -> None:
        """Follow the store, so that neither the first query nor the first after a release pays for the opening."""
        while not self._stopped.is_set():
            try:
                served = self.served()
            except StoreError as error:
                logger.error("pinned encoder not readable", extra={"reason": str(error)})
                self._stopped.wait(FAULT_PAUSE_S)
                continue
            if served is not None:
                served.slot.start()
                served.releases.refresh()
            self._stopped.wait(LOOK_EVERY_S)


@dataclass(frozen=True, slots=True)
class _Finding:
    """One query vector, float32 [1, d], on its way through one release and the ledger."""

    reader: ReleaseReader
    ledger: Ledger
    labels: CollectionLabels
    vector: EmbeddingMatrix
    watch: Stopwatch

    def live_hits(self, k: int) -> list[ScoredHit]:
        """The k best images that are still there: what was deleted since the release is replaced by what follows."""
        hits: list[ScoredHit] = []
        for fetch in dict.fromkeys((k, min(MAX_K, 2 * k + 100), MAX_K)):
            hits, complete = self._look_up(self._search(fetch), fetch=fetch, k=k)
            if complete:
                return hits
        # So much was deleted that it has to be left out of the search itself, which costs time in proportion to all.
        with self.watch.measure("ledger"):
            live = live_vectors(self.ledger)[0]
        return self._look_up(self._search(k, allowed=live), fetch=k, k=k)[0]

    def fitting_hits(self, k: int, wanted: SearchFilter) -> list[ScoredHit]:
        """The k best among the indexed images that fit a filter; what was deleted is not among them."""
        with self.watch.measure("ledger"):
            fitting = images_that_fit(self.ledger, wanted)
        if wanted.label is not None:
            with self.watch.measure("labels"):
                named = self.labels.ids_with(wanted.label, min_confidence=wanted.label_min_confidence or 0.0)
                fitting = np.intersect1d(fitting, named, assume_unique=True)
        return self._look_up(self._search(k, allowed=fitting), fetch=k, k=k)[0]

    def _search(self, k: int, *, allowed: IdArray | None = None) -> SearchResult:
        with self.watch.measure("index"):
            return self.reader.search(self.vector, k, allowed=allowed)

    def _look_up(self, found: SearchResult, *, fetch: int, k: int) -> tuple[list[ScoredHit], bool]:
        """The first k live hits, and whether a longer search could not give more."""
        ids = [int(i) for i in found.ids[0] if i != -1]
        with self.watch.measure("ledger"):
            live = images_by_id(self.ledger, ids)
        scores = found.scores[0]
        hits = [ScoredHit(float(scores[n]), live[i]) for n, i in enumerate(ids) if i in live]
        return hits[:k], len(hits) >= k or len(ids) < fetch


def check_fingerprint(query: VectorQuery, spec: EncoderSpec) -> None:
    """Raises FingerprintMismatchError where a vector says that another encoder made it."""
    if query.fingerprint is not None and query.fingerprint != spec.fingerprint:
        raise FingerprintMismatchError(
            f"the vector was made by an encoder of fingerprint {query.fingerprint[:12]}, the index by {spec.name} "
            f"({spec.fingerprint[:12]}); make the vector with that encoder, or search by text or image"
        )


def unit_vector(numbers: Sequence[float], *, dim: int) -> EmbeddingMatrix:
    """A given vector as float32 [1, d] of unit length.

    Raises:
        InvalidFieldError: it has another length, is not finite, or is zero.
    """
    if len(numbers) != dim:
        raise InvalidFieldError("vector", f"expected {dim} numbers, got {len(numbers)}")
    vector = np.asarray(numbers, np.float64)
    # Scaled first: the squares of large but finite numbers overflow.
    largest = np.abs(vector).max()
    if not np.isfinite(largest) or largest == 0:
        raise InvalidFieldError("vector", "expected finite numbers, not all zero")
    scaled = vector / largest
    return (scaled / np.linalg.norm(scaled)).astype(np.float32)[None, :]
