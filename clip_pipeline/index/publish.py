"""A planned release becomes files, is verified, and only then published. One publisher at a time, readers never wait.

Killed at any moment, the old release is current or the new one is, complete. What a kill leaves behind is either a
`.tmp-` folder, swept by the next publisher, or a complete release that `CURRENT` never named, whose number is not
used again and which is pruned as it grows old.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import IntegrityError, NotFoundError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.release import (
    Release,
    read_current_release,
    read_segment_rows,
    release_numbers,
)
from clip_pipeline.core.store import Store, discard, replace_dir, sweep_temporaries
from clip_pipeline.index.choice import IndexPolicy
from clip_pipeline.index.plan import LiveImages, ReleasePlan, plan_release
from clip_pipeline.index.source import SealedSource
from clip_pipeline.index.staging import Provenance, Staging
from clip_pipeline.index.verify import (
    intact_segments,
)

KEEP_RELEASES = 5
DEFAULT_POLICY = IndexPolicy()


@dataclass(frozen=True, slots=True, eq=False)
class MergeResult:
    """release: the current one after the merge; published: whether this merge made it. damaged: segments of the
    parent whose files were not as recorded and were built anew, or `release` when its statement was unreadable."""

    release: Release
    plan: ReleasePlan
    published: bool
    damaged: tuple[str, ...] = ()


def merge_release(
    store: Store,
    spec: EncoderSpec,
    *,
    live: LiveImages,
    provenance: Provenance,
    policy: IndexPolicy = DEFAULT_POLICY,
    keep: int = KEEP_RELEASES,
) -> MergeResult:
    """The release that holds the live images: a new one, or the current one when nothing would change.

    Damaged segments of the current release are not used again but built anew from the sealed embeddings. The last
    `keep` releases stay on disk.

    Raises:
        StoreError: another publisher is at work, a batch was sealed anew meanwhile, or the disk is full.
        IntegrityError: sealed embeddings fail their digest, or the new release failed verification.
    """
    with publishing_lock(store, spec.key):
        parent, damaged = _intact_parent(store, spec)
        plan = plan_from_store(store, spec, parent=parent, live=live)
        if parent is not None and not damaged and plan.changes_nothing(parent):
            return MergeResult(parent, plan, published=False)
        release = publish_planned(store, spec, plan, provenance=provenance, policy=policy)
        prune_releases(store, spec.key, keep=keep)
        return MergeResult(release, plan, published=True, damaged=damaged)


def plan_from_store(store: Store, spec: EncoderSpec, *, parent: Release | None, live: LiveImages) -> ReleasePlan:
    """The plan for `live` on top of `parent`, from the seals and id maps as they are in the store now."""
    source = SealedSource(store, spec)
    folder = store.release_dir(spec.key, parent.number) if parent else Path()
    return plan_release(
        parent,
        source.digests(BatchKey(n) for n in np.unique(live.batch_numbers).tolist()),
        live=live,
        segment_rows=partial(read_segment_rows, folder),
        batch_ids=source.image_ids,
    )


def publish_release(
    store: Store,
    spec: EncoderSpec,
    *,
    plan: ReleasePlan,
    provenance: Provenance,
    policy: IndexPolicy = DEFAULT_POLICY,
) -> Release:
    """Build, verify and publish the planned release.

    Raises:
        StoreError: another publisher is at work, or published since the plan was made.
        IntegrityError: what was read or built failed verification; the current release stays.
    """
    with publishing_lock(store, spec.key):
        current = store.current_release_number(spec.key)
        if current != plan.parent:
            raise StoreError(f"the plan builds on release {plan.parent} but {current} is current; plan again")
        return publish_planned(store, spec, plan, provenance=provenance, policy=policy)


def prune_releases(store: Store, encoder_key: str, *, keep: int) -> list[int]:
    """Remove all but the newest `keep` releases and the current one; returns the numbers removed.

    Segments that newer releases use again stay: they are hard links of their own. The newest number always stays, so
    that no number is used twice.
    """
    numbers = release_numbers(store, encoder_key)
    current = store.current_release_number(encoder_key)
    removed = [number for number in numbers[: -max(1, keep)] if number != current]
    for number in removed:
        discard(store.release_dir(encoder_key, number))
    return removed


@contextmanager
def publishing_lock(store: Store, encoder_key: str) -> Generator[None]:
    """Be the only publisher of one encoder's releases. The lock ends with the process, however that ends.

    Raises:
        StoreError: another process or thread holds it.
    """
    folder = store.releases_dir(encoder_key)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StoreError(f"another publisher is at work in {folder}; try again when it is done") from error
    finally:
        os.close(descriptor)


def _intact_parent(store: Store, spec: EncoderSpec) -> tuple[Release | None, tuple[str, ...]]:
    """The current release without damaged segments, and the names of those; no parent when it is unreadable."""
    try:
        current = read_current_release(store, spec.key)
    except (IntegrityError, NotFoundError):
        return None, ("release",)
    if current is None:
        return None, ()
    intact = intact_segments(store, spec.key, current)
    damaged = tuple(segment.name for segment in current.segments if segment not in intact)
    return replace(current, segments=intact), damaged


def publish_planned(
    store: Store, spec: EncoderSpec, plan: ReleasePlan, *, provenance: Provenance, policy: IndexPolicy
) -> Release:
    """`publish_release` for a caller that holds the publishing lock and planned under it."""
    sweep_temporaries(store.releases_dir(spec.key))
    number = max(release_numbers(store, spec.key), default=0) + 1
    target = store.release_dir(spec.key, number)
    try:
        with replace_dir(target) as folder:
            release = Staging(SealedSource(store, spec), plan, folder, number, policy).stage(provenance)
        store.set_current_release(spec.key, number)
    except OSError as error:
        raise StoreError(
            f"release {number} could not be written at {target} ({error}); free space, merge again"
        ) from error
    return release
