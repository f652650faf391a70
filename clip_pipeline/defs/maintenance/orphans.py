"""What nobody owns goes: left by killed writers, by requests and batches that are gone, by releases grown old.

Listed first, removed one by one, each of them whole: a kill leaves the rest for the next time. No Dagster here.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.maintenance_lock import maintenance_lock
from clip_pipeline.core.release import referenced_batches
from clip_pipeline.core.store import Store, discard
from clip_pipeline.core.sweep import (
    Orphan,
    size_of,
    temporaries,
    unknown_batches,
    unknown_labels,
    unknown_thumbnails,
    unknown_uploads,
)
from clip_pipeline.index.expiry import expire_releases, expired_releases
from clip_pipeline.ledger.analysis_requests import forget_upload
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.sweeping import known_batches, label_set_digests, needed_uploads, shown_contents

logger = logging.getLogger(__name__)

LEAST_AGE = timedelta(hours=1)
"""However the settings are: a writer may take that long over what is still temporary, or yet to be recorded."""
RELEASE_AGE = timedelta(days=7)
"""Beyond the five newest, releases go as they are published; the others when they are older than this."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was found and, unless it was only looked for, removed."""

    orphans: tuple[Orphan, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return dict(Counter(orphan.kind for orphan in self.orphans))

    @property
    def size_bytes(self) -> int:
        """Of all together; a segment that several releases share counts for each."""
        return sum(orphan.size_bytes for orphan in self.orphans)


def find_orphans(ledger: Ledger, store: Store, *, older_than: datetime) -> Sweep:
    """What a sweep would remove now.

    Raises:
        StoreError: the ledger is not that of this store.
    """
    return Sweep((*_orphans(ledger, store, older_than=older_than), *_old_releases(store, older_than=older_than)))


def sweep_orphans(ledger: Ledger, store: Store, *, older_than: datetime) -> Sweep:
    """Remove what was last changed before a moment, and an hour ago, and belongs to nobody; releases a week later.

    Raises:
        StoreError: other maintenance, a backup or a publisher is at work, or the ledger is not that of this store.
    """
    with maintenance_lock(store):
        removed = [o for o in _orphans(ledger, store, older_than=older_than) if _remove(ledger, store, o)]
        removed += _old_releases(store, older_than=older_than)
        for encoder_key in store.encoders_with_releases():
            expire_releases(store, encoder_key, before=older_than - RELEASE_AGE)
    if removed:
        logger.info("orphans removed", extra={"orphans": len(removed)})
    return Sweep(tuple(removed))


def _orphans(ledger: Ledger, store: Store, *, older_than: datetime) -> Iterator[Orphan]:
    before = min(older_than, datetime.now(UTC) - LEAST_AGE).timestamp()
    known = known_batches(ledger)
    _require_own_ledger(store, known)
    yield from temporaries(store, before=before)
    yield from unknown_batches(store, known, before=before)
    yield from unknown_uploads(store, partial(needed_uploads, ledger), before=before)
    yield from unknown_thumbnails(store, partial(shown_contents, ledger), before=before)
    yield from unknown_labels(store, label_set_digests(ledger), before=before)


def _require_own_ledger(store: Store, known: Set[BatchKey]) -> None:
    """An empty ledger, or that of another store, would have everything swept away."""
    named = {BatchKey.parse(key) for key in referenced_batches(store)} or set(store.stored_batches()[:1])
    foreign = sorted(named - known)
    if foreign:
        raise StoreError(
            f"{store.root} holds batch {foreign[0]}, which the ledger has never heard of; nothing was swept. "
            "Check CLIP_PIPELINE_HOME and CLIP_PIPELINE_LEDGER_URL"
        )


def _old_releases(store: Store, *, older_than: datetime) -> list[Orphan]:
    found: list[Orphan] = []
    for encoder_key in store.encoders_with_releases():
        for number in expired_releases(store, encoder_key, before=older_than - RELEASE_AGE):
            folder = store.release_dir(encoder_key, number)
            found.append(Orphan("releases", folder, size_of(folder)))
    return found


def _remove(ledger: Ledger, store: Store, orphan: Orphan) -> bool:
    """Remove one orphan; False where somebody came for it meanwhile."""
    if orphan.kind == "uploads":
        sha256 = orphan.path.name
        return forget_upload(ledger, sha256, remove=partial(store.forget_upload_files, sha256))
    try:
        discard(orphan.path)
    except FileNotFoundError:
        return False
    return True
