"""Whether a release in the making may be published: all of it is measured when it is new, else what is new in it.

A segment that is used again was measured when it was built, and its bytes are still those of its digest. So an addition
costs what it adds, and one pass over the old vectors as the index holds them: embeddings that were merged before are
not read again, but for a few batches, other ones each time. `verify_release` reads all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.release import IdArray, Release, read_segment_rows
from clip_pipeline.index.choice import IndexChoice
from clip_pipeline.index.id_sets import are_in, distinct, without
from clip_pipeline.index.plan import LiveImages, ReleasePlan
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.index.source import SealedSource, VectorBlock
from clip_pipeline.index.verify import (
    RECALL_K,
    RECALL_QUERIES,
    ROUND_TRIP_SAMPLE,
    Fault,
    RecallAtK,
    id_faults,
    measure_recall,
    recall_faults,
    round_trip_faults,
    sample_of,
    spread,
    structure_faults,
)

ADDITION_QUERIES = 32
"""Of recall where old segments are used again: each costs 30 to 45 ms of a core at a million 512-d vectors."""
KEPT_BATCHES = 8
_SEED = 20_240_229


@dataclass(frozen=True, slots=True)
class Acceptance:
    """faults: why it must not be published, none when it may. recall: of `queries` images of it, at `RECALL_K`."""

    faults: tuple[Fault, ...]
    recall: float
    queries: int


def accept(folder: Path, release: Release, *, plan: ReleasePlan, source: SealedSource) -> Acceptance:
    """What is to be said of the release in `folder`, opened from its files, each compared with its digest.

    Raises:
        IntegrityError: a file fails its digest, or sealed embeddings do.
    """
    reader = ReleaseReader(folder, release)
    rows = {segment.name: read_segment_rows(folder, segment) for segment in release.segments}
    facts = [*structure_faults(reader, rows), *id_faults(reader, plan.content.image_ids)]
    judge = _judge_addition if _can_be_judged_by_addition(plan) else _judge_whole
    faults, recall, queries = judge(reader, plan, source)
    reader.close()
    return Acceptance((*facts, *faults, *recall_faults(recall)), recall[0].recall, queries)


def added_images(plan: ReleasePlan) -> LiveImages:
    """The part of the plan's content that new segments hold."""
    ids = np.sort(np.concatenate([np.empty(0, np.int64), *(a.image_ids for a in plan.additions)]))
    return plan.content.only(np.searchsorted(plan.content.image_ids, ids))


def from_few_batches(content: LiveImages, *, most: int, seed: int) -> LiveImages:
    """The images of up to `most` of the batches, which ones depends on `seed`."""
    numbers = distinct(content.batch_numbers)
    if len(numbers) <= most:
        return content
    chosen = np.sort(np.random.default_rng((_SEED, seed)).choice(numbers, most, replace=False))
    return content.only(are_in(chosen, content.batch_numbers))


_Judged = tuple[list[Fault], tuple[RecallAtK, ...], int]


def _can_be_judged_by_addition(plan: ReleasePlan) -> bool:
    """Bytes instead of float16 are no truth to measure recall against."""
    codecs = {IndexChoice.parse(kept.segment.index_type).codec for kept in plan.kept}
    return codecs == {"fp16"}


def _judge_whole(reader: ReleaseReader, plan: ReleasePlan, source: SealedSource) -> _Judged:
    """Against every sealed embedding of the content."""
    stored = source.collect(sample_of(plan.content, ROUND_TRIP_SAMPLE), plan.digests)
    asked = spread(stored.vectors, RECALL_QUERIES)
    recall = measure_recall(reader, source.all_blocks(plan.content, plan.digests), queries=asked)
    added = source.collect(sample_of(added_images(plan), ROUND_TRIP_SAMPLE), plan.digests) if plan.kept else None
    faults = [*round_trip_faults(reader, stored), *(round_trip_faults(reader, added) if added else ())]
    return faults, recall, len(asked)


def _judge_addition(reader: ReleaseReader, plan: ReleasePlan, source: SealedSource) -> _Judged:
    """Against the sealed embeddings of what is new, and the float16 vectors that the kept segments hold."""
    added = added_images(plan)
    old = plan.content.only(~are_in(added.image_ids, plan.content.image_ids))
    old = from_few_batches(old, most=KEPT_BATCHES, seed=reader.release.number)
    samples = [source.collect(sample_of(part, ROUND_TRIP_SAMPLE), plan.digests) for part in (old, added)]
    asked = _stored_vectors(reader, sample_of(plan.content, ADDITION_QUERIES).image_ids).vectors
    truth = chain(_nearest_kept(reader, plan, asked, added.image_ids), source.all_blocks(added, plan.digests))
    recall = measure_recall(reader, truth, queries=asked)
    return [fault for sample in samples for fault in round_trip_faults(reader, sample)], recall, len(asked)


def _nearest_kept(
    reader: ReleaseReader, plan: ReleasePlan, queries: EmbeddingMatrix, added: IdArray
) -> Iterator[VectorBlock]:
    """Of the images in kept segments those that can be in the answer: the true nearest, and what a search finds."""
    names = {kept.segment.name for kept in plan.kept}
    nearest = reader.search_fully(queries, RECALL_K, segments=names).ids
    found = without(reader.search(queries, RECALL_K).ids.ravel(), added)
    ids = distinct(np.concatenate([nearest.ravel(), found]))
    block = _stored_vectors(reader, ids[ids != -1])
    if block.ids.size:
        yield block


def _stored_vectors(reader: ReleaseReader, ids: IdArray) -> VectorBlock:
    """The vectors of those ids that the release holds, as it holds them."""
    held = [(image_id, vector) for image_id in ids.tolist() if (vector := reader.vector(image_id)) is not None]
    vectors = np.array([vector for _, vector in held], np.float32).reshape(len(held), reader.release.dim)
    return VectorBlock(np.array([image_id for image_id, _ in held], np.int64), vectors)
