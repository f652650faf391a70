"""Forward passes that bad images and a small device cannot break: a vector or a reason for each image."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.encoder import EmbeddingMatrix, Encoder, PixelBatch
from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.reasons import Reason, ReasonCode

EmbeddingVector: TypeAlias = npt.NDArray[np.float32]

NO_ROOM = Reason(ReasonCode.OUT_OF_MEMORY, "a forward pass of this image alone")
_SMALLEST_NORM = 1e-6


@dataclass(slots=True)
class ForwardPass:
    """An encoder and how many images it takes at once; `limit` halves for good when the device runs out of memory."""

    encoder: Encoder
    limit: int

    def embed(self, pixels: PixelBatch) -> list[EmbeddingVector | Reason]:
        """For each image of uint8 [n, 3, h, w] its vector, float32 [d] of unit length, or why there is none.

        Raises:
            IntegrityError: the encoder makes vectors of another shape than its specification says.
        """
        found: list[EmbeddingVector | Reason] = []
        while len(found) < len(pixels):
            part = pixels[len(found) : len(found) + self.limit]
            try:
                vectors = self.encoder.encode_images(part)
            except MemoryError:
                if len(part) == 1:
                    found.append(NO_ROOM)
                else:
                    self.limit = len(part) // 2
                continue
            found += self._checked(vectors, count=len(part))
        return found

    def _checked(self, vectors: EmbeddingMatrix, *, count: int) -> list[EmbeddingVector | Reason]:
        spec = self.encoder.spec
        if vectors.shape != (count, spec.dim):
            raise IntegrityError(
                f"{spec.name} made {vectors.shape} from {count} images, expected {count} x {spec.dim}; its "
                "specification is wrong"
            )
        # In float32: a float16 norm of 768 squares loses about three decimal digits.
        numbers = np.asarray(vectors, np.float32)
        norms = np.linalg.norm(numbers, axis=1)
        return [
            numbers[i] / norms[i]
            if np.isfinite(norms[i]) and norms[i] > _SMALLEST_NORM
            else Reason(ReasonCode.NOT_FINITE, f"the embedding has length {norms[i]}")
            for i in range(count)
        ]
