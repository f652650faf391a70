"""Vectors by content: those of uploads are kept here, those of indexed images lie in the release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sqlalchemy import select

from clip_pipeline.ledger.analysis_requests import lock_upload
from clip_pipeline.ledger.chunks import chunks
from clip_pipeline.ledger.database import Ledger, insert_if_new, utc_now
from clip_pipeline.ledger.schema import analysis_requests, images, upload_vectors
from clip_pipeline.ledger.states import VECTOR_IMAGES

Vector: TypeAlias = npt.NDArray[np.float16]
_STORED = np.dtype("<f2")


@dataclass(frozen=True, slots=True)
class IndexedImage:
    """An image that has a vector, and the number of the batch whose sealed embeddings hold it."""

    image_id: int
    batch: int


def stored_vectors(ledger: Ledger, sha256s: Sequence[str], *, fingerprint: str) -> dict[str, Vector]:
    """The vectors that are kept of these contents, float16 [d] each, made by the encoder of that fingerprint."""
    found: dict[str, Vector] = {}
    with ledger.read() as connection:
        for chunk in chunks(sha256s):
            rows = connection.execute(
                select(upload_vectors.c.sha256, upload_vectors.c.vector)
                .where(upload_vectors.c.sha256.in_(chunk), upload_vectors.c.fingerprint == fingerprint)
            ).tuples()  # fmt: skip
            found |= {sha256: np.frombuffer(vector, _STORED).astype(np.float16) for sha256, vector in rows}
    return found


def keep_vectors(ledger: Ledger, vectors: Mapping[str, npt.NDArray[np.floating]], *, fingerprint: str) -> None:
    """Keep vectors [d] by sha256 of their upload, as float16; one that is kept already stays.

    Nothing is kept of an upload that no request refers to any more: it may be forgotten already.
    """
    with ledger.write_rows() as connection:
        for sha256 in sorted(vectors):
            lock_upload(connection, sha256)
        referred = select(analysis_requests.c.sha256).where(analysis_requests.c.sha256.in_(list(vectors)))
        rows = [
            {"sha256": sha256, "fingerprint": fingerprint, "vector": vectors[sha256].astype(_STORED).tobytes(),
             "created_at": utc_now()}
            for sha256 in sorted(set(connection.execute(referred).scalars()))
        ]  # fmt: skip
        if rows:
            connection.execute(insert_if_new(connection, upload_vectors), rows)


def indexed_images(ledger: Ledger, sha256s: Sequence[str]) -> dict[str, IndexedImage]:
    """Where the vectors of these contents lie, of those that are live images and have one.

    The caller knows which encoder made them.
    """
    found: dict[str, IndexedImage] = {}
    with ledger.read() as connection:
        for chunk in chunks(sha256s):
            rows = connection.execute(
                select(images.c.sha256, images.c.image_id, images.c.batch)
                .where(images.c.sha256.in_(chunk), images.c.state.in_(VECTOR_IMAGES))
            ).tuples()  # fmt: skip
            found |= {sha256: IndexedImage(image_id, batch) for sha256, image_id, batch in rows}
    return found
