"""Many small segments, and those full of dead rows, are built anew as one: search visits every segment. No Dagster.

What a merge adds is a small segment, so that its cost follows what is new; what that leaves behind is tidied here.
"""

from datetime import UTC, datetime

from clip_pipeline import __version__
from clip_pipeline.core.errors import IntegrityError, StoreError
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.release import Release, read_current_release
from clip_pipeline.core.store import Store
from clip_pipeline.index.compact import compact_release, segments_to_compact
from clip_pipeline.index.publish import MergeResult
from clip_pipeline.index.staging import Provenance
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.publishing import outstanding, record_rebuilt_release


def worn_segments(store: Store) -> tuple[Release | None, frozenset[str]]:
    """The published release, and the names of its segments that are worth building anew."""
    spec = pinned_encoder(store)
    release = read_current_release(store, spec.key) if spec is not None else None
    return release, segments_to_compact(release) if release is not None else frozenset()


def compact_segments(ledger: Ledger, store: Store, *, run_id: str) -> MergeResult | None:
    """Publish the same images in fewer segments; None where that is not worth it, or has to wait for a merge.

    Raises:
        StoreError: another publisher is at work.
        IntegrityError: the release or sealed embeddings are damaged; the published release stays.
    """
    spec = pinned_encoder(store)
    _, worn = worn_segments(store)
    if spec is None or not worn:
        return None
    provenance = Provenance(run_id, __version__, datetime.now(UTC))
    try:
        result = compact_release(store, spec, provenance=provenance, segments=worn)
    except IntegrityError:
        raise
    except StoreError:
        if outstanding(ledger).is_empty:
            raise
        return None  # a batch was embedded anew, and only the merge that awaits it knows what is to be shown
    if result.published:
        release = result.release
        record_rebuilt_release(ledger, spec.key, number=release.number, images_count=release.images, run_id=run_id)
    return result if result.published else None
