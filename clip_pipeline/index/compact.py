"""Fewer segments and no dead rows, for the same content: a release whose chosen segments are rebuilt as one."""

from dataclasses import replace
from functools import partial

from clip_pipeline.core.embeddings import check_files
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import NotFoundError, StoreError
from clip_pipeline.core.release import Release, read_current_release, read_segment_rows
from clip_pipeline.core.store import Store
from clip_pipeline.index.choice import FLAT_ROWS, IndexPolicy
from clip_pipeline.index.plan import content_of
from clip_pipeline.index.publish import (
    DEFAULT_POLICY,
    KEEP_RELEASES,
    MergeResult,
    plan_from_store,
    prune_releases,
    publish_planned,
    publishing_lock,
)
from clip_pipeline.index.staging import Provenance

MAX_SEGMENTS = 16
"""Every search visits every segment, and a visit costs about as much as comparing a few thousand vectors."""
MAX_DEAD_SHARE = 0.2


def segments_to_compact(release: Release, *, small_rows: int = FLAT_ROWS) -> frozenset[str]:
    """Names of the segments that are worth rebuilding, empty when that can wait.

    Segments of which a fifth is dead; and, once there are more than 16 segments, those with at most `small_rows` rows.
    """
    decayed = {s.name for s in release.segments if s.dead > MAX_DEAD_SHARE * s.rows}
    if len(release.segments) <= MAX_SEGMENTS:
        return frozenset(decayed)
    return frozenset(decayed | {s.name for s in release.segments if s.rows <= small_rows})


def compact_release(
    store: Store,
    spec: EncoderSpec,
    *,
    provenance: Provenance,
    segments: frozenset[str] | None = None,
    policy: IndexPolicy = DEFAULT_POLICY,
    keep: int = KEEP_RELEASES,
) -> MergeResult:
    """The current release with its `segments` (default: all) rebuilt together from the sealed embeddings.

    The live images stay the same. Nothing is published when that would change nothing: one segment without dead rows.

    Raises:
        NotFoundError: no release is published.
        StoreError: another publisher is at work, or an image of the release is no longer in its sealed batch.
        IntegrityError: a file of the release is damaged, or the result failed verification; the current one stays.
    """
    with publishing_lock(store, spec.key):
        current = read_current_release(store, spec.key)
        if current is None:
            raise NotFoundError(f"no release of {spec.key} is published yet; materialize merged_index")
        folder = store.release_dir(spec.key, current.number)
        for segment in current.segments:
            check_files(folder, segment.files)
        live = content_of(current, partial(read_segment_rows, folder))
        chosen = {s.name for s in current.segments} if segments is None else segments
        rebuilt = [s for s in current.segments if s.name in chosen]
        if len(rebuilt) <= 1 and not any(s.dead for s in rebuilt):
            rebuilt = []
        rest = replace(current, segments=tuple(s for s in current.segments if s not in rebuilt))
        plan = plan_from_store(store, spec, parent=rest, live=live)
        if plan.missing.size:
            raise StoreError(
                f"{plan.missing.size} images of release {current.number} are in no sealed batch any more, first "
                f"{plan.missing[0]}; materialize merged_index, then compact"
            )
        if plan.changes_nothing(current):
            return MergeResult(current, plan, published=False)
        release = publish_planned(store, spec, plan, provenance=provenance, policy=policy)
        prune_releases(store, spec.key, keep=keep)
        return MergeResult(release, plan, published=True)
