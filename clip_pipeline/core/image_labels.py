"""The best labels of every indexed image under one label set, sealed on disk and read without loading it.

Three arrays in the order of ascending image id: `ids.npy` int64 [n], `top.npy` int16 [n, k] (indices into the seal's
labels, best first) and `confidence.npy` float16 [n, k]. k is `KEPT`, or the number of labels where that is smaller.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.embeddings import StoredVectors, check_files
from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.errors import IntegrityError, NotFoundError, QueryError
from clip_pipeline.core.label_scores import top_labels
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.core.label_vectors import LabelVectors
from clip_pipeline.core.manifest import file_sha256
from clip_pipeline.core.release import IdArray
from clip_pipeline.core.store import Store, replace_dir

KEPT = 5
IDS, TOP, CONFIDENCE, SEAL = "ids.npy", "top.npy", "confidence.npy", "seal.json"
_ROWS_AT_ONCE = 256 * 1024
_READ_ATTEMPTS = 5

TopIndices: TypeAlias = npt.NDArray[np.int16]
TopConfidences: TypeAlias = npt.NDArray[np.float16]
ScoredChunk: TypeAlias = tuple[IdArray, StoredVectors | EmbeddingMatrix]
"""Image ids, int64 [n], and their vectors, [n, d]."""


@dataclass(frozen=True, slots=True)
class ImageLabelsSeal:
    """What the labels of a collection state about themselves.

    release: number of the release whose live images were scored; images: how many those are. firsts: for each label
    that is the best of some image, of how many; files: file name -> SHA-256.
    """

    label_set: str
    version: int
    digest: str
    labels: tuple[str, ...]
    fingerprint: str
    logit_scale: float
    release: int
    images: int
    kept: int
    firsts: dict[str, int]
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A label and how sure it is, in [0, 1]."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True, eq=False)
class ImageLabels:
    """The labels of a collection as opened. All arrays are mapped read-only and belong to one seal."""

    seal: ImageLabelsSeal
    ids: IdArray
    top: TopIndices
    confidence: TopConfidences
    _positions: dict[str, int] = field(repr=False)

    def ids_with(self, label: str, *, min_confidence: float = 0.0) -> IdArray:
        """Ascending ids of the images that have `label` among their kept labels with at least that confidence.

        Letter case does not matter, as in a label set.

        Raises:
            QueryError: the label set has no such label.
        """
        index = self._positions.get(label.casefold())
        if index is None:
            raise QueryError(
                f"expected a label of the set {self.seal.label_set} version {self.seal.version}, got {label!a}; "
                f"it has {len(self.seal.labels)} labels"
            )
        found = [np.empty(0, np.int64)]
        for rows in self._blocks():
            confidence = self.confidence[rows].astype(np.float32)
            matches = (self.top[rows] == index) & (confidence >= min_confidence)
            found.append(self.ids[rows][matches.any(axis=1)])
        return np.concatenate(found)

    def labels_of(self, image_id: int) -> list[Labelled]:
        """The kept labels of one image, best first; none where it was not scored."""
        row = int(np.searchsorted(self.ids, image_id))
        if row == len(self.ids) or self.ids[row] != image_id:
            return []
        pairs = zip(self.top[row], self.confidence[row], strict=True)
        return [Labelled(self.seal.labels[int(index)], float(confidence)) for index, confidence in pairs]

    def counts(self) -> dict[str, int]:
        """For each label that is the best of some image, of how many, most frequent first."""
        return dict(sorted(self.seal.firsts.items(), key=lambda item: (-item[1], item[0])))

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.ids), _ROWS_AT_ONCE):
            yield slice(start, start + _ROWS_AT_ONCE)


def seal_image_labels(
    store: Store,
    encoder_key: str,
    *,
    label_set: LabelSet,
    label_vectors: LabelVectors,
    release: int,
    images: int,
    chunks: Iterable[ScoredChunk],
) -> ImageLabelsSeal:
    """Score every image of `chunks`, which come in any order, and publish the result, replacing the one before.

    images: how many there are in all. Takes about 40 bytes an image beside one chunk: 400 MB for ten millions.

    Raises:
        IntegrityError: the chunks hold more or fewer images, an image twice, or the vectors are of another label set.
    """
    if label_vectors.seal.digest != label_set.digest:
        raise IntegrityError(f"the label vectors are not those of {label_set.name} version {label_set.version}")
    ids, top, confidence = _score(chunks, label_vectors, images=images)
    firsts = np.bincount(top[:, 0], minlength=len(label_set.labels)).tolist()
    with replace_dir(store.image_labels_dir(encoder_key, label_set.digest)) as folder:
        for name, array in ((IDS, ids), (TOP, top), (CONFIDENCE, confidence)):
            np.save(folder / name, array)
        seal = ImageLabelsSeal(
            label_set=label_set.name,
            version=label_set.version,
            digest=label_set.digest,
            labels=label_set.labels,
            fingerprint=label_vectors.seal.fingerprint,
            logit_scale=label_vectors.seal.logit_scale,
            release=release,
            images=images,
            kept=top.shape[1],
            firsts={label: n for label, n in zip(label_set.labels, firsts, strict=True) if n},
            files={name: file_sha256(folder / name) for name in (IDS, TOP, CONFIDENCE)},
        )
        (folder / SEAL).write_text(json.dumps(asdict(seal), indent=1, sort_keys=True))
    return seal


def read_image_labels_seal(store: Store, encoder_key: str, *, digest: str) -> ImageLabelsSeal:
    """The statement alone: cheap, to see whether a new one was published.

    Raises:
        NotFoundError: no image was labelled with this label set under this encoder.
        IntegrityError: the statement is not readable as one.
    """
    path = store.image_labels_dir(encoder_key, digest) / SEAL
    try:
        fields = json.loads(path.read_text())
        return ImageLabelsSeal(**(fields | {"labels": tuple(fields["labels"])}))
    except FileNotFoundError as error:
        raise NotFoundError(f"no labels of the set {digest[:16]} at {path.parent}; materialize image_labels") from error
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is not a seal ({error}); materialize image_labels") from error


def open_image_labels(store: Store, encoder_key: str, *, digest: str) -> ImageLabels:
    """The labels of the collection, mapped; they stay as they are when newer ones are published meanwhile.

    Raises:
        NotFoundError: as `read_image_labels_seal`.
        IntegrityError: a file is missing or of another shape than the seal says.
    """
    folder = store.image_labels_dir(encoder_key, digest)
    for _ in range(_READ_ATTEMPTS):
        seal = read_image_labels_seal(store, encoder_key, digest=digest)
        try:
            arrays = [_map(folder / name, empty=not seal.images) for name in (IDS, TOP, CONFIDENCE)]
        except FileNotFoundError:
            continue  # a newer one took its place between two files
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{folder}: an array cannot be read ({error}); materialize image_labels") from error
        if read_image_labels_seal(store, encoder_key, digest=digest) == seal:
            return _opened(folder, seal, arrays)
    raise IntegrityError(f"{folder}: files are missing, or replaced too often to be read; materialize image_labels")


def check_image_labels(store: Store, encoder_key: str, *, digest: str) -> None:
    """Read every byte and compare it with the seal.

    Raises:
        NotFoundError: as `read_image_labels_seal`.
        IntegrityError: a file is missing or differs from its digest.
    """
    seal = read_image_labels_seal(store, encoder_key, digest=digest)
    check_files(store.image_labels_dir(encoder_key, digest), seal.files)


def _score(
    chunks: Iterable[ScoredChunk], label_vectors: LabelVectors, *, images: int
) -> tuple[IdArray, TopIndices, TopConfidences]:
    kept = min(KEPT, len(label_vectors.vectors))
    ids, done = np.empty(images, np.int64), 0
    top, confidence = np.empty((images, kept), np.int16), np.empty((images, kept), np.float16)
    for chunk_ids, vectors in chunks:
        rows = slice(done, done + len(chunk_ids))
        if rows.stop > images or len(vectors) != len(chunk_ids):
            raise IntegrityError(f"expected {images} images with a vector each, got more; nothing was published")
        ids[rows] = chunk_ids
        scale = label_vectors.seal.logit_scale
        top[rows], confidence[rows] = top_labels(vectors, label_vectors.vectors, logit_scale=scale, k=kept)
        done = rows.stop
    if done != images:
        raise IntegrityError(f"expected {images} images to label, got {done}; nothing was published")
    order = np.argsort(ids)
    ids = ids[order]
    if (ids[1:] == ids[:-1]).any():
        raise IntegrityError("an image came twice; nothing was published")
    return ids, top[order], confidence[order]


def _map(path: Path, *, empty: bool) -> npt.NDArray[np.generic]:
    return np.load(path, mmap_mode=None if empty else "r")  # nothing cannot be mapped


def _opened(folder: Path, seal: ImageLabelsSeal, arrays: list[npt.NDArray[np.generic]]) -> ImageLabels:
    n, k = seal.images, seal.kept
    expected = [((n,), np.int64), ((n, k), np.int16), ((n, k), np.float16)]
    if [(array.shape, array.dtype) for array in arrays] != expected:
        raise IntegrityError(f"{folder}: the arrays are not those that the seal describes; materialize image_labels")
    ids, top, confidence = arrays
    positions = {label.casefold(): index for index, label in enumerate(seal.labels)}
    return ImageLabels(seal, ids.view(np.int64), top.view(np.int16), confidence.view(np.float16), positions)
