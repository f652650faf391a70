"""The labels of a label set as vectors, on disk: made where the encoder is, read where it is not.

`vectors-<digest>.npy` is float32 [c, d] in the order of the labels; `.json` beside it is written last and says what
they are, including the encoder's logit scale, so that whoever scores stored images needs no encoder.
"""

import json
from dataclasses import asdict, dataclass

import numpy as np

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import FingerprintMismatchError, IntegrityError, NotFoundError
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.core.manifest import file_sha256
from clip_pipeline.core.store import Store, replace_file


@dataclass(frozen=True, slots=True)
class LabelVectorsSeal:
    """What label vectors state about themselves. digest: the label set's; sha256: of the file of vectors."""

    label_set: str
    version: int
    digest: str
    count: int
    dim: int
    fingerprint: str
    logit_scale: float
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class LabelVectors:
    """Label vectors as read back. vectors: float32 [c, d], unit length."""

    seal: LabelVectorsSeal
    vectors: EmbeddingMatrix


def write_label_vectors(
    store: Store, spec: EncoderSpec, *, label_set: LabelSet, vectors: EmbeddingMatrix, logit_scale: float
) -> LabelVectorsSeal:
    """Write the vectors of a label set, replacing what was there.

    Raises:
        IntegrityError: there is not one finite vector of unit length for each label.
    """
    _check(vectors, count=len(label_set.labels), dim=spec.dim)
    path = store.label_vectors_path(spec.key, label_set.digest)
    with replace_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, vectors)
    seal = LabelVectorsSeal(
        label_set=label_set.name, version=label_set.version, digest=label_set.digest, count=len(vectors), dim=spec.dim,
        fingerprint=spec.fingerprint, logit_scale=logit_scale, sha256=file_sha256(path),
    )  # fmt: skip
    with replace_file(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(asdict(seal), indent=1, sort_keys=True))
    return seal


def read_label_vectors(store: Store, spec: EncoderSpec, *, digest: str) -> LabelVectors:
    """The vectors of the label set with this digest, checked against their statement.

    Raises:
        NotFoundError: they have not been made under this encoder.
        FingerprintMismatchError: they were made by another encoder.
        IntegrityError: they are damaged, or a kill left vectors that no statement belongs to.
    """
    path = store.label_vectors_path(spec.key, digest)
    remedy = "materialize label_embeddings"
    try:
        seal = LabelVectorsSeal(**json.loads(path.with_suffix(".json").read_text()))
        sha256 = file_sha256(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"the label set {digest[:16]} has no vectors at {path}; {remedy}") from error
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path.with_suffix('.json')} cannot be read ({error}); {remedy}") from error
    if seal.fingerprint != spec.fingerprint:
        raise FingerprintMismatchError(f"{path} was made by another encoder than {spec.model_name}; {remedy}")
    if (seal.digest, seal.sha256) != (digest, sha256):
        raise IntegrityError(f"{path} is not what its statement describes; {remedy}")
    vectors = np.load(path)
    _check(vectors, count=seal.count, dim=seal.dim)
    return LabelVectors(seal, vectors)


def _check(vectors: EmbeddingMatrix, *, count: int, dim: int) -> None:
    if vectors.shape != (count, dim) or vectors.dtype != np.float32:
        raise IntegrityError(f"expected label vectors float32 {(count, dim)}, got {vectors.dtype} {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1.0) <= 1e-3))
    if wrong.size:
        raise IntegrityError(f"{wrong.size} of {count} label vectors are not of unit length, first at row {wrong[0]}")
