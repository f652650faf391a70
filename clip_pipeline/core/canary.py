"""The canary: what an encoder must make of a few known pictures before its vectors may join those of others.

The first vectors made of them under a fingerprint are kept in the store as golden. A worker whose own differ from them
has other weights, another preprocessing or a device that computes wrong, whatever its fingerprint says.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.encoder import EmbeddingMatrix, EncoderSpec
from clip_pipeline.core.errors import FingerprintMismatchError, IntegrityError
from clip_pipeline.core.store import Store, create_file, replace_file

LEAST_COSINE = 0.999
"""bfloat16 on a GPU against float32 on a CPU stays above it; a channel swapped or a crop moved falls far below."""


@dataclass(frozen=True, slots=True)
class CanaryVectors:
    """Vectors of the canary's pictures. pictures: digest over all of them; vectors: float32 [8, d], unit length."""

    fingerprint: str
    pictures: str
    vectors: EmbeddingMatrix


def read_golden(path: Path) -> CanaryVectors | None:
    """The golden vectors in a file, or None where there is no such file.

    Raises:
        IntegrityError: the file holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            fields = {name: archive[name] for name in ("fingerprint", "pictures", "vectors")}
    except FileNotFoundError:
        return None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path} holds no golden vectors ({error}); make them anew with --renew-canary") from error
    vectors: npt.NDArray[np.float32] = fields["vectors"]
    return CanaryVectors(str(fields["fingerprint"]), str(fields["pictures"]), vectors)


def record_golden(store: Store, spec: EncoderSpec, found: CanaryVectors) -> bool:
    """Keep vectors as golden where there are none yet; False, and nothing changed, where there are."""
    return create_file(store.canary_path(spec.key), _archived(found))


def renew_golden(store: Store, spec: EncoderSpec, found: CanaryVectors) -> None:
    """Keep vectors as golden in place of whatever was; only ever on a person's word."""
    with replace_file(store.canary_path(spec.key)) as temporary:
        temporary.write_bytes(_archived(found))


def least_cosine(golden: CanaryVectors, found: CanaryVectors, *, names: Sequence[str]) -> tuple[float, str]:
    """The least cosine between a picture's two vectors, and the picture's name.

    Raises:
        FingerprintMismatchError: they are of different encoders or different pictures.
    """
    if golden.fingerprint != found.fingerprint or golden.vectors.shape != found.vectors.shape:
        raise FingerprintMismatchError(
            f"the canary's golden vectors are those of encoder {golden.fingerprint[:12]}, not of "
            f"{found.fingerprint[:12]}; the store's file was put there by hand: remove it"
        )
    if golden.pictures != found.pictures:
        raise FingerprintMismatchError(
            "the canary's golden vectors were made of other pictures, by another version of clip_pipeline; run the "
            "controller's version, or make them anew with --renew-canary on a worker that is known to be right"
        )
    cosines = (golden.vectors.astype(np.float64) * found.vectors.astype(np.float64)).sum(axis=1)
    worst = int(np.argmin(cosines))
    return float(cosines[worst]), names[worst]


def check_reproduced(golden: CanaryVectors, found: CanaryVectors, *, names: Sequence[str]) -> float:
    """The least cosine over all pictures.

    Raises:
        FingerprintMismatchError: it is too small, or they cannot be compared.
    """
    cosine, name = least_cosine(golden, found, names=names)
    if not cosine >= LEAST_COSINE:  # a cosine that is no number fails too
        raise FingerprintMismatchError(
            f"the encoder does not reproduce the golden vectors of its fingerprint {golden.fingerprint[:12]}: cosine "
            f"{cosine:.5f} for {name}, expected at least {LEAST_COSINE}; its weights, its preprocessing or its device "
            "is not what the others have. Install the controller's versions of torch, Pillow and clip_pipeline, and "
            "test the device; nothing is embedded meanwhile"
        )
    return cosine


def _archived(found: CanaryVectors) -> bytes:
    archive = io.BytesIO()
    np.savez(archive, fingerprint=np.array(found.fingerprint), pictures=np.array(found.pictures), vectors=found.vectors)
    return archive.getvalue()
