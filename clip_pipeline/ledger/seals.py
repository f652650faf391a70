"""What the ledger recorded about sealed files and the published release: what a verification compares them with."""

from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.publishing import IdArray
from clip_pipeline.ledger.schema import batches, images


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """A batch with a sealed manifest. embeddings_digest: None before it was embedded."""

    key: BatchKey
    manifest_digest: str
    images: int
    embeddings_digest: str | None


def recorded_batches(ledger: Ledger) -> list[RecordedBatch]:
    """Every batch whose manifest was sealed, in order."""
    with ledger.read() as connection:
        rows = connection.execute(
            select(batches.c.number, batches.c.manifest_digest, batches.c.images, batches.c.embeddings_digest)
            .where(batches.c.manifest_digest.is_not(None))
            .order_by(batches.c.number)
        )
        return [
            RecordedBatch(BatchKey(number), str(digest), int(count or 0), sealed)
            for number, digest, count, sealed in rows.tuples()
        ]


def released_images(ledger: Ledger) -> IdArray:
    """Ids of the images that the recorded release shows, int64 [n], ascending."""
    with ledger.read() as connection:
        shown = select(images.c.image_id).where(images.c.in_release.is_(True)).order_by(images.c.image_id)
        return np.fromiter(connection.execute(shown).scalars(), dtype=np.int64)


def recently_changed(ledger: Ledger, *, since: str) -> set[BatchKey]:
    """The batches that something happened to since a moment."""
    with ledger.read() as connection:
        numbers = connection.execute(select(batches.c.number).where(batches.c.updated_at >= since))
        return {BatchKey(number) for number in numbers.scalars()}
