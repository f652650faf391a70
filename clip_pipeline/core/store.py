"""The store: one root folder, local or on a shared filesystem. Only this module builds paths below it.

    store.json                                            the id of this store
    encoder.json                                          the pinned encoder
    canary/<encoder>.npz                                  what it makes of a few known pictures
    manifests/<batch>.parquet
    embeddings/<encoder>/<batch>/{vectors.npy, rows.parquet, quarantine.parquet, seal.json}
    releases/<encoder>/<n>/{segment-*.faiss, ids-*.npy, dead-*.npy, release.json}
    releases/<encoder>/CURRENT
    labels/<encoder>/vectors-<digest>.{npy,json}         the labels of one label set as vectors
    labels/<encoder>/<digest>/{ids.npy, top.npy, confidence.npy, seal.json}
    uploads/<sha256[:2]>/<sha256>   thumbnails/<sha256[:2]>/<sha256>.webp

Whatever is visible under its final name is complete: it was written under a temporary name in the same folder,
flushed to disk, then renamed. Temporary names start with `.tmp-`, so a sweep can tell what a kill left behind.
"""

import os
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.keys import BatchKey

TEMPORARY_PREFIX = ".tmp-"
THUMBNAIL_SIDE = 256


@dataclass(frozen=True, slots=True)
class Store:
    """Paths and atomic writes below one root. Holds no handle, so it is free to copy and send."""

    root: Path

    @property
    def pinned_encoder_path(self) -> Path:
        """The specification of the encoder that this store is built with."""
        return self.root / "encoder.json"

    @property
    def identity_path(self) -> Path:
        """The file that says which store this is."""
        return self.root / "store.json"

    def canary_path(self, encoder_key: str) -> Path:
        """The vectors that one encoder must make of the canary's pictures."""
        return self.canary_dir / f"{encoder_key}.npz"

    @property
    def canary_dir(self) -> Path:
        """The folder of the vectors that encoders must make of the canary's pictures."""
        return self.root / "canary"

    def try_writing(self) -> None:
        """Write, flush and remove a small file. Raises OSError where that cannot be done."""
        temporary = _temporary_beside(self.root / "try")
        try:
            temporary.write_bytes(b"try")
            fsync_path(temporary)
        finally:
            temporary.unlink(missing_ok=True)

    def manifest_path(self, batch: BatchKey) -> Path:
        """The manifest of one batch."""
        return self.root / "manifests" / f"{batch}.parquet"

    def embeddings_dir(self, encoder_key: str, batch: BatchKey) -> Path:
        """The sealed embeddings of one batch under one encoder."""
        return self.root / "embeddings" / encoder_key / str(batch)

    def stored_batches(self) -> list[BatchKey]:
        """The batches with a manifest, or with embeddings under any encoder, whoever knows of them; in order."""
        sealed = (path.name for path in self.root.glob("embeddings/*/b[0-9]*"))
        listed = (path.stem for path in self.root.glob("manifests/b[0-9]*.parquet"))
        return sorted({BatchKey.parse(name) for name in (*sealed, *listed)})

    def files_of_batch(self, batch: BatchKey) -> list[Path]:
        """What is stored of one batch: folders of embeddings, then its manifest."""
        found = [*self.root.glob(f"embeddings/*/{batch}"), self.manifest_path(batch)]
        return [path for path in found if path.exists()]

    def embedded_batches(self, encoder_key: str) -> list[BatchKey]:
        """The batches with sealed embeddings under one encoder, in order."""
        folder = self.root / "embeddings" / encoder_key
        if not folder.is_dir():
            return []
        return sorted(BatchKey.parse(p.parent.name) for p in folder.glob("b*/seal.json"))

    def releases_dir(self, encoder_key: str) -> Path:
        """The folder that holds the releases of one encoder and the `CURRENT` pointer."""
        return self.root / "releases" / encoder_key

    def encoders_with_releases(self) -> list[str]:
        """The keys of the encoders that releases were published of, or are being made of."""
        return sorted(path.name for path in self.root.glob("releases/*") if path.is_dir())

    def release_dir(self, encoder_key: str, number: int) -> Path:
        """The folder of one release, published or not."""
        return self.releases_dir(encoder_key) / f"{number:07d}"

    def current_release_number(self, encoder_key: str) -> int | None:
        """The number of the published release, or None before the first.

        Raises:
            StoreError: `CURRENT` holds something else than a number.
        """
        pointer = self.releases_dir(encoder_key) / "CURRENT"
        try:
            text = pointer.read_text().strip()
        except FileNotFoundError:
            return None
        if not text.isdigit():
            raise StoreError(f"{pointer} holds {text!r}, expected a release number; restore it or publish anew")
        return int(text)

    def set_current_release(self, encoder_key: str, number: int) -> None:
        """Publish: one atomic rename makes `number` the release that readers open."""
        pointer = self.releases_dir(encoder_key) / "CURRENT"
        with replace_file(pointer) as temporary:
            temporary.write_text(f"{number}\n")

    @property
    def maintenance_lock_path(self) -> Path:
        """The file that maintenance and backups lock."""
        return self.root / ".maintenance-lock"

    def writing_folders(self) -> list[Path]:
        """Every folder that writers put temporary entries into."""
        of_all = ("manifests", "canary", "uploads")
        of_each = ("embeddings/*", "releases/*", "labels/*", "uploads/*", "thumbnails/*")
        found = (path for part in (*of_all, *of_each) for path in sorted(self.root.glob(part)))
        return [self.root, *(path for path in found if path.is_dir() and not path.name.startswith("."))]

    def encoders_with_labels(self) -> list[str]:
        """The keys of the encoders that label sets were embedded with."""
        return sorted(path.name for path in self.root.glob("labels/*") if path.is_dir())

    def labels_dir(self, encoder_key: str) -> Path:
        """The folder of everything that was made of label sets under one encoder."""
        return self.root / "labels" / encoder_key

    def label_vectors_path(self, encoder_key: str, digest: str) -> Path:
        """The vectors of the label set with this digest under one encoder; what they are is said in `.json` beside."""
        return self.labels_dir(encoder_key) / f"vectors-{digest[:16]}.npy"

    def image_labels_dir(self, encoder_key: str, digest: str) -> Path:
        """The labels of all indexed images from the label set with this digest, under one encoder."""
        return self.labels_dir(encoder_key) / digest[:16]

    @property
    def thumbnails_dir(self) -> Path:
        """The folder of all cached thumbnails."""
        return self.root / "thumbnails"

    def thumbnail_path(self, sha256: str, *, side: int = THUMBNAIL_SIDE) -> Path:
        """The cached thumbnail of one content, whose long side has at most so many pixels."""
        name = f"{sha256}.webp" if side == THUMBNAIL_SIDE else f"{sha256}-{side}.webp"
        return self.thumbnails_dir / sha256[:2] / name

    def upload_path(self, sha256: str) -> Path:
        """An uploaded image, by content, never by the name it came with."""
        return self.uploads_dir / sha256[:2] / sha256

    def forget_upload_files(self, sha256: str) -> None:
        """Delete an upload and every thumbnail of its content. An indexed image of that content gets new ones."""
        self.upload_path(sha256).unlink(missing_ok=True)
        for thumbnail in self.thumbnail_path(sha256).parent.glob(f"{sha256}*.webp"):
            thumbnail.unlink(missing_ok=True)

    @property
    def uploads_dir(self) -> Path:
        """The folder of all uploads; temporary files directly in it are uploads whose content is not known yet."""
        return self.root / "uploads"

    @contextmanager
    def new_upload(self) -> Generator[Path, None, None]:
        """A temporary path on the disk of the uploads, to be renamed to an upload's own; else gone after the block."""
        self.uploads_dir.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_beside(self.uploads_dir / "upload")
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replace_file(target: Path) -> Generator[Path, None, None]:
    """A temporary path beside `target`; becomes `target`, flushed to disk, when the block ends without error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(target)
    try:
        yield temporary
        fsync_path(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(target.parent)


def create_file(target: Path, content: bytes) -> bool:
    """Write a file, flushed to disk, where there is none; False, and nothing changed, where there is one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(target)
    try:
        temporary.write_bytes(content)
        fsync_path(temporary)
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(target.parent)
    return True


@contextmanager
def replace_dir(target: Path) -> Generator[Path, None, None]:
    """A temporary folder beside `target`; takes its place, flushed to disk, when the block ends without error.

    Where `target` exists it is moved aside first: between the two renames it reads as absent, which is a true
    statement (nothing sealed is there) that every reader already handles.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_beside(target)
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            fsync_path(path)
        fsync_path(temporary)
        _swap_in(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_path(target.parent)


def discard(path: Path) -> None:
    """Remove a file or folder. A folder goes whole at once: what is visible under its name is never half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = _temporary_beside(path)
    os.rename(path, aside)
    shutil.rmtree(aside)


def sweep_temporaries(folder: Path, *, older_than_s: float = 0.0) -> int:
    """Remove what killed writers left directly in `folder`; returns how many entries. Call it with no writer alive.

    older_than_s: leave what was changed since; with it, writers that take less time may be alive.
    """
    before = time.time() - older_than_s
    found = folder.glob(f"{TEMPORARY_PREFIX}*") if folder.is_dir() else ()
    leftovers = [path for path in found if not older_than_s or path.stat().st_mtime < before]
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return len(leftovers)


def fsync_path(path: Path) -> None:
    """Flush one file or folder to disk, so that a rename never outlives the bytes it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_beside(target: Path) -> Path:
    return target.parent / f"{TEMPORARY_PREFIX}{target.name}-{uuid.uuid4().hex[:12]}"


def _swap_in(temporary: Path, target: Path) -> None:
    aside = _temporary_beside(target)
    try:
        os.rename(target, aside)
    except FileNotFoundError:
        aside = None
    os.rename(temporary, target)
    if aside is not None:
        shutil.rmtree(aside, ignore_errors=True)
