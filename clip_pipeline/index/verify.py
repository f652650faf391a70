"""Is a release what it says, and does it find what it should? Faults are values here; whoever publishes raises them.

The same functions run before a release is published and whenever somebody asks later.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.embeddings import check_files
from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import ClipPipelineError, IntegrityError, NotFoundError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.metrics import ScoreMatrix, tie_aware_recall_at_k
from clip_pipeline.core.release import IdArray, Release, Segment, SegmentRows, read_release, read_segment_rows
from clip_pipeline.core.store import Store
from clip_pipeline.index.choice import IndexChoice
from clip_pipeline.index.exact import exact_search
from clip_pipeline.index.id_sets import are_in, distinct, without
from clip_pipeline.index.plan import LiveImages, content_of
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.index.source import SealedSource, VectorBlock

RECALL_K, RECALL_QUERIES, RECALL_FLOOR = 10, 100, 0.95
RECALL_KS = (1, 5, 10, 50)
ROUND_TRIP_SAMPLE, SEARCHED_SAMPLE = 256, 32
"""Images whose stored vector is compared, and how many of them are searched for: a flat search costs 5 ms at 100k."""
SCORE_TOLERANCE = {"fp16": 1e-5, "sq8": 2e-2}
"""By how much a score may differ from the exact one: summation order only, or the rounding to bytes."""
_SEED = 20_240_229
_ROUND_TRIP_K = 10
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Fault:
    """check: `files`, `structure`, `ids`, `embeddings`, `round-trip` or `recall`; detail: what was found where."""

    check: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecallAtK:
    """Share of the true k nearest that were found, over all queries; copies of one picture count for each other."""

    k: int
    recall: float


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """recall: at k = 1, 5, 10, 50, empty when faults kept it from being measured. queries: how many were sampled."""

    release: Release
    faults: tuple[Fault, ...]
    recall: tuple[RecallAtK, ...]
    queries: int


def verify_release(
    store: Store,
    spec: EncoderSpec,
    *,
    number: int | None = None,
    expected: IdArray | None = None,
    sample: int = ROUND_TRIP_SAMPLE,
    queries: int = RECALL_QUERIES,
) -> VerifyReport:
    """Everything that can be checked about a release, the current one by default, against its sealed embeddings.

    expected: int64, the ids that should be live according to whoever knows. sample: images whose vectors make the
    round trip; queries: of recall.

    Raises:
        NotFoundError: there is no such release, or none is published.
        IntegrityError: `release.json` is not readable.
    """
    wanted = store.current_release_number(spec.key) if number is None else number
    if wanted is None:
        raise NotFoundError(f"no release of {spec.key} is published yet; materialize merged_index")
    release = read_release(store, spec.key, wanted)
    try:
        reader = ReleaseReader.open(store, spec.key, number=wanted)
        reader.check_fingerprint(spec)
        rows = read_all_rows(store, spec.key, release)
    except ClipPipelineError as error:
        return VerifyReport(release, (Fault("files", str(error)),), (), 0)
    content = content_of(release, lambda segment: rows[segment.name])
    faults = [*structure_faults(reader, rows), *id_faults(reader, content.image_ids if expected is None else expected)]
    source = SealedSource(store, spec)
    digests, stale = _recorded_digests(source, release, rows)
    if faults or stale:
        return VerifyReport(release, (*faults, *stale), (), 0)
    return _verify_vectors(reader, source, content, digests, sample=sample, queries=queries)


def read_all_rows(store: Store, encoder_key: str, release: Release) -> dict[str, SegmentRows]:
    """The id map of every segment, by segment name. Raises IntegrityError where one is unreadable."""
    folder = store.release_dir(encoder_key, release.number)
    return {segment.name: read_segment_rows(folder, segment) for segment in release.segments}


def intact_segments(store: Store, encoder_key: str, release: Release) -> tuple[Segment, ...]:
    """The segments whose files are all there and as recorded."""
    folder = store.release_dir(encoder_key, release.number)

    def is_intact(segment: Segment) -> bool:
        try:
            check_files(folder, segment.files)
        except IntegrityError:
            return False
        return True

    return tuple(segment for segment in release.segments if is_intact(segment))


def structure_faults(reader: ReleaseReader, rows: Mapping[str, SegmentRows]) -> list[Fault]:
    """Counts, ranges, id maps and index files that do not fit together."""
    release = reader.release
    found = [fault for segment in release.segments for fault in _segment_faults(segment, rows[segment.name])]
    images = sum(segment.rows - segment.dead for segment in release.segments)
    if images != release.images:
        found.append(Fault("structure", f"the release states {release.images} images, its segments hold {images}"))
    repeated = [name for name, n in Counter(s.name for s in release.segments).items() if n > 1]
    found += [Fault("structure", f"two segments are called {name}") for name in repeated]
    stored = reader.stored_ids()
    other = [name for name, row in rows.items() if not np.array_equal(np.sort(row.ids), stored[name])]
    return found + [Fault("structure", f"segment {name}: index and id map hold different ids") for name in other]


def id_faults(reader: ReleaseReader, expected: IdArray) -> list[Fault]:
    """Ids that are live twice, and the difference between what is live and what should be."""
    live = reader.live_ids()
    unique, ordered = distinct(live), np.sort(expected)
    twice, absent = live[1:][live[1:] == live[:-1]], without(ordered, unique)
    foreign = without(unique, ordered)
    problems = ((twice, "live twice"), (absent, "not in the release"), (foreign, "in the release but not live"))
    return [Fault("ids", f"{len(ids)} images are {what}, first {ids[0]}") for ids, what in problems if ids.size]


def round_trip_faults(reader: ReleaseReader, stored: VectorBlock) -> list[Fault]:
    """Images whose stored vector is not what the index holds, or does not find its own image."""
    if not len(stored.ids):
        return []
    tolerance = score_tolerance(reader.release)
    own_scores = np.einsum("nd,nd->n", stored.vectors, stored.vectors)
    kept = [reader.vector(image_id) for image_id in stored.ids.tolist()]
    altered = [
        v is None or abs(float(v @ w) - s) > tolerance for v, w, s in zip(kept, stored.vectors, own_scores, strict=True)
    ]
    asked = spread(np.arange(len(stored.ids)), SEARCHED_SAMPLE)
    lost = _not_found(reader, VectorBlock(stored.ids[asked], stored.vectors[asked]), own_scores[asked], tolerance)
    problems = (
        (stored.ids, np.array(altered), "differ from their sealed vector"),
        (stored.ids[asked], lost, "are not found by their own vector"),
    )
    return [
        Fault("round-trip", f"{mask.sum()} of {len(mask)} images {what}, first {ids[mask][0]}")
        for ids, mask, what in problems
        if mask.any()
    ]


def measure_recall(
    reader: ReleaseReader,
    blocks: Iterable[VectorBlock],
    *,
    queries: EmbeddingMatrix,
    ks: Sequence[int] = (RECALL_K,),
) -> tuple[RecallAtK, ...]:
    """Recall of the release against exact float32 search over `blocks`, the vectors as they should be.

    queries: float32 [q, d]. Recall of no queries is 1.
    """
    if not len(queries):
        return tuple(RecallAtK(k, 1.0) for k in ks)
    found = reader.search(queries, max(ks))
    truth = exact_search(blocks, queries, k=max(ks), candidates=found.ids)
    tolerance = SCORE_TOLERANCE["fp16"]
    return tuple(
        RecallAtK(k, tie_aware_recall_at_k(truth.candidate_scores, truth.scores, k=k, tolerance=tolerance)) for k in ks
    )


def recall_faults(measured: Sequence[RecallAtK]) -> list[Fault]:
    """Recall below the floor."""
    return [
        Fault("recall", f"recall@{m.k} is {m.recall:.3f}, expected at least {RECALL_FLOOR}; choose a larger flat_rows")
        for m in measured
        if m.recall < RECALL_FLOOR
    ]


def sample_of(content: LiveImages, size: int) -> LiveImages:
    """Up to `size` images, drawn evenly with a fixed seed."""
    if len(content) <= size:
        return content
    return content.only(np.sort(np.random.default_rng(_SEED).choice(len(content), size, replace=False)))


def spread(rows: npt.NDArray[_Number], size: int) -> npt.NDArray[_Number]:
    """Up to `size` of the rows, evenly spaced."""
    return rows if len(rows) <= size else rows[np.linspace(0, len(rows) - 1, size).astype(np.int64)]


def score_tolerance(release: Release) -> float:
    """How far scores of this release may be from the exact ones."""
    codecs = {IndexChoice.parse(segment.index_type).codec for segment in release.segments}
    return max((SCORE_TOLERANCE[codec] for codec in codecs), default=0.0)


def _verify_vectors(
    reader: ReleaseReader,
    source: SealedSource,
    content: LiveImages,
    digests: Mapping[BatchKey, str],
    *,
    sample: int,
    queries: int,
) -> VerifyReport:
    try:
        stored = source.collect(sample_of(content, max(sample, queries)), digests)
        asked = spread(stored.vectors, queries)
        faults = round_trip_faults(reader, stored)
        recall = measure_recall(reader, source.all_blocks(content, digests), queries=asked, ks=RECALL_KS)
    except ClipPipelineError as error:
        return VerifyReport(reader.release, (Fault("embeddings", str(error)),), (), 0)
    return VerifyReport(reader.release, (*faults, *recall_faults(recall)), recall, len(asked))


def _not_found(
    reader: ReleaseReader, asked: VectorBlock, own_scores: ScoreMatrix, tolerance: float
) -> npt.NDArray[np.bool_]:
    """Which images a search with their own vector misses, or gives another score."""
    found = reader.search(asked.vectors, _ROUND_TRIP_K)
    is_self = found.ids == asked.ids[:, None]
    right_score = np.abs(found.scores - own_scores[:, None]) <= tolerance
    # Copies of a picture may push it off the list: then everything on the list scores at least as well.
    crowded_out = (found.scores >= own_scores[:, None] - tolerance).all(axis=1)
    return ~((is_self & right_score).any(axis=1) | (crowded_out & ~is_self.any(axis=1)))


def _segment_faults(segment: Segment, rows: SegmentRows) -> list[Fault]:
    ends = [0, *(batch.offset + batch.rows for batch in segment.batches)]
    starts = [*(batch.offset for batch in segment.batches), segment.rows]
    problems = {
        "its batches do not cover its rows one after the other": starts != ends,
        "an id occurs twice in it": len(distinct(rows.ids)) != segment.rows,
        "its dead ids are not ascending": bool((rows.dead[1:] <= rows.dead[:-1]).any()),
        "a dead id is none of its own": not are_in(np.sort(rows.ids), rows.dead).all(),
    }
    return [Fault("structure", f"segment {segment.name}: {what}") for what, is_so in problems.items() if is_so]


def _recorded_digests(
    source: SealedSource, release: Release, rows: Mapping[str, SegmentRows]
) -> tuple[dict[BatchKey, str], list[Fault]]:
    """The digest at which each batch with live rows is in the release, and where its seal says otherwise."""
    recorded: dict[BatchKey, str] = {}
    for segment in release.segments:
        alive = ~np.isin(rows[segment.name].ids, rows[segment.name].dead)
        for batch in segment.batches:
            if alive[batch.offset : batch.offset + batch.rows].any():
                recorded[BatchKey.parse(batch.key)] = batch.digest
    try:
        sealed = source.digests(recorded)
    except IntegrityError as error:
        return recorded, [Fault("embeddings", str(error))]
    faults = [
        Fault(
            "embeddings",
            f"batch {batch} is in the release at {digest[:12]}, sealed is {sealed.get(batch, 'nothing')[:12]}",
        )
        for batch, digest in recorded.items()
        if sealed.get(batch) != digest
    ]
    return recorded, faults
