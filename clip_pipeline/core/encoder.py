"""What an encoder is: a protocol, its specification, and the preprocessing its pixels went through."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

PixelBatch: TypeAlias = npt.NDArray[np.uint8]
EmbeddingMatrix: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a decoded RGB image becomes the encoder's input, EXIF orientation already applied.

    resize: `shortest` scales the short side to `size` and crops `height` x `width` from the centre (CLIP);
        `exact` scales to `height` x `width`, whatever the aspect ratio (SigLIP).
    mean, std: per RGB channel, in units of [0, 1]; the encoder applies them to `pixels / 255`.
    """

    resize: Literal["shortest", "exact"]
    size: int
    height: int
    width: int
    resample: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Everything that decides whether two vectors may be compared, and what people call the encoder.

    name: what the user asked for: `builtin-conse-efficientnet-lite0-minilm`, a hub id or a local directory.
    model_name: the short form shown to people and returned as `model_name` by the API.
    fingerprint: 64 hex digits; digest of weights, preprocessing, dtype and dim (`fingerprint_of`).
    """

    name: str
    model_name: str
    fingerprint: str
    dim: int
    dtype: str
    preprocessing: Preprocessing

    @property
    def key(self) -> str:
        """The folder of this encoder in the store: readable name, then the start of the fingerprint."""
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", self.model_name).strip("-.")[:60]
        return f"{slug}-{self.fingerprint[:12]}"

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "EncoderSpec":
        """Raises KeyError, TypeError or ValueError when `text` is not a specification."""
        fields = json.loads(text)
        plain = fields["preprocessing"]
        plain |= {"mean": tuple(plain["mean"]), "std": tuple(plain["std"])}
        return cls(**(fields | {"preprocessing": Preprocessing(**plain)}))


class Encoder(Protocol):
    """Images and texts to unit-length vectors of one space.

    Pixels stay uint8 until they are on the encoder's device: a float32 batch is four times the traffic.
    """

    @property
    def spec(self) -> EncoderSpec:
        """Name, fingerprint, dim and preprocessing."""
        ...

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by before a softmax over labels. Not in the fingerprint: no vector depends on it.

        Raises:
            EncoderUnavailableError: the model's files do not say.

        Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
        section 2.5: exp(t), learned with the towers.
        """
        ...

    def encode_images(self, pixels: PixelBatch) -> EmbeddingMatrix:
        """Embeddings, float32 [n, d], unit length, of `pixels`, uint8 [n, 3, h, w] as `spec.preprocessing` makes.

        Raises:
            MemoryError: the device has no room for a forward pass of n images.
        """
        ...

    def encode_texts(self, texts: Sequence[str]) -> EmbeddingMatrix:
        """Embeddings, float32 [q, d], unit length, one for each text."""
        ...


def fingerprint_of(*, weights_sha256: str, preprocessing: Preprocessing, dtype: str, dim: int) -> str:
    """64 hex digits over all that decides an embedding's numbers; equal means comparable."""
    parts = {"weights": weights_sha256, "preprocessing": asdict(preprocessing), "dtype": dtype, "dim": dim}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
