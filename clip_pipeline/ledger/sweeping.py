"""What the ledger knows of the things in a store, for whoever looks for those that nobody owns."""

from collections.abc import Sequence, Set

from sqlalchemy import select

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.schema import analysis_requests, batches, images, label_sets, retired_batches
from clip_pipeline.ledger.states import ImageState


def known_batches(ledger: Ledger) -> Set[BatchKey]:
    """Every batch that there is, or that was compacted into another."""
    with ledger.read() as connection:
        numbers = [*connection.execute(select(batches.c.number)).scalars()]
        numbers += connection.execute(select(retired_batches.c.number)).scalars()
    return {BatchKey(number) for number in numbers}


def needed_uploads(ledger: Ledger, sha256s: Sequence[str]) -> Set[str]:
    """Those of the contents that an analysis request refers to."""
    found: set[str] = set()
    with ledger.read() as connection:
        for chunk in chunks(sha256s):
            asked = select(analysis_requests.c.sha256).where(analysis_requests.c.sha256.in_(chunk)).distinct()
            found |= set(connection.execute(asked).scalars())
    return found


def all_uploads(ledger: Ledger) -> list[str]:
    """The contents that analysis requests refer to, by SHA-256."""
    with ledger.read() as connection:
        query = select(analysis_requests.c.sha256).distinct().order_by(analysis_requests.c.sha256)
        return list(connection.execute(query).scalars())


def shown_contents(ledger: Ledger, sha256s: Sequence[str]) -> Set[str]:
    """Those of the contents that somebody may want to see: of images that are not deleted, and of uploads."""
    found: set[str] = set(needed_uploads(ledger, sha256s))
    with ledger.read() as connection:
        for chunk in chunks(sha256s):
            asked = select(images.c.sha256).where(images.c.sha256.in_(chunk), images.c.state != ImageState.DELETED)
            found |= set(connection.execute(asked).scalars())
    return found


def label_set_digests(ledger: Ledger) -> Set[str]:
    """The digests of all versions of all label sets."""
    with ledger.read() as connection:
        return set(connection.execute(select(label_sets.c.digest).distinct()).scalars())
