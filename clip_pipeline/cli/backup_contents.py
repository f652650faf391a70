"""What a backup consists of: everything that a copied ledger names, read from a store that goes on changing.

The ledger is copied first. Whatever it names was sealed, under the digest it names, before it was recorded, and only
maintenance deletes; so all of it is there to be copied afterwards, but for what was made anew in the meantime, which
the digest tells. The other way round, the ledger would name what the copy of the store does not have.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_pipeline.core.embeddings import SEAL, read_seal
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.release import Release, read_release
from clip_pipeline.core.store import TEMPORARY_PREFIX, Store
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.publishing import recorded_release
from clip_pipeline.ledger.seals import RecordedBatch, recorded_batches
from clip_pipeline.ledger.sweeping import all_uploads


@dataclass(frozen=True, slots=True)
class Item:
    """A file of the store. sha256: its digest as somebody sealed it; None where nobody did."""

    path: Path
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """All files of a backup, the release among them, and what a restored home will have to mend by itself."""

    items: tuple[Item, ...]
    encoder_key: str | None
    release: int | None
    remarks: tuple[str, ...]


def contents_of_backup(ledger: Ledger, store: Store, *, with_uploads: bool) -> Contents:
    """What belongs to this state of the ledger.

    Raises:
        StoreError, NotFoundError, IntegrityError: something was made anew, or pruned, since that state, or is damaged.
    """
    recorded = recorded_batches(ledger)
    items = [*_single_files(store), *(Item(store.manifest_path(b.key), b.manifest_digest) for b in recorded)]
    spec = pinned_encoder(store)
    number, remarks = None, ()
    if spec is not None:
        number = recorded_release(ledger, spec.key)
        release = read_release(store, spec.key, number) if number is not None else None
        items += _embeddings(store, spec, recorded, release)
        items += _release_files(store, spec, release)
        remarks = _remarks(recorded, release)
    items += _label_files(store)
    if with_uploads:
        items += [Item(store.upload_path(sha256), sha256) for sha256 in all_uploads(ledger)]
    return Contents(tuple(items), spec.key if spec else None, number, tuple(remarks))


def _single_files(store: Store) -> list[Item]:
    found = [store.identity_path, store.pinned_encoder_path, *sorted(store.canary_dir.glob("*.npz"))]
    return [Item(path) for path in found if path.is_file()]


def _embeddings(
    store: Store, spec: EncoderSpec, recorded: Sequence[RecordedBatch], release: Release | None
) -> Iterator[Item]:
    """Those that the ledger records, and those of compacted batches that the release still holds rows of."""
    expected = {b.key: b.embeddings_digest for b in recorded if b.embeddings_digest is not None}
    for batch in {b.key: b for s in (release.segments if release else ()) for b in s.batches}.values():
        expected.setdefault(BatchKey.parse(batch.key), batch.digest)
    for key, digest in sorted(expected.items()):
        seal_path = store.embeddings_dir(spec.key, key) / SEAL
        seal = read_seal(store, spec.key, key)
        if seal.digest != digest:
            raise IntegrityError(f"batch {key} is sealed as {seal.digest[:12]}, recorded was {digest[:12]}")
        yield from (Item(seal_path.parent / name, sha256) for name, sha256 in seal.files.items())
        yield Item(seal_path, _sha256(seal_path))


def _release_files(store: Store, spec: EncoderSpec, release: Release | None) -> Iterator[Item]:
    if release is None:
        return
    folder = store.release_dir(spec.key, release.number)
    for segment in release.segments:
        yield from (Item(folder / name, sha256) for name, sha256 in segment.files.items())
    yield Item(folder / "release.json")


def _label_files(store: Store) -> Iterator[Item]:
    """What was made of label sets. All of it can be made again, from the stored embeddings and the encoder."""
    for encoder_key in store.encoders_with_labels():
        for path in sorted(store.labels_dir(encoder_key).iterdir()):
            if path.name.startswith(TEMPORARY_PREFIX):
                continue
            if not path.is_dir():
                yield Item(path)
                continue
            seal_path = path / SEAL
            text = seal_path.read_bytes()
            yield from (Item(path / name, sha256) for name, sha256 in json.loads(text)["files"].items())
            yield Item(seal_path, hashlib.sha256(text).hexdigest())


def _remarks(recorded: Sequence[RecordedBatch], release: Release | None) -> Iterator[str]:
    """Where the release was made of other embeddings than are there now: the next merge sees to it."""
    now = {str(batch.key): batch.embeddings_digest for batch in recorded}
    held = {b.key: b.digest for s in (release.segments if release else ()) for b in s.batches}
    stale = sorted(key for key, digest in held.items() if now.get(key) not in (None, digest))
    if stale:
        yield f"{stale[0]} was embedded anew and awaits its merge, here and in a restored home ({len(stale)} batches)"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
