"""Towers of Hugging Face models as functions of one kind of input, for conversion: bytes or tokens in, a vector out."""

import torch
from torch import Tensor, nn

from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.embedding.openvino_tower import Traced


class FromBytes(nn.Module):
    """uint8 [n, 3, h, w] to a tower's vectors, float [n, d]; the normalisation is part of the graph."""

    scale: Tensor
    shift: Tensor

    def __init__(self, tower: nn.Module, preprocessing: Preprocessing, *, output: str | None) -> None:
        """output: the name of the vectors in what the tower returns; None where it returns them."""
        super().__init__()
        self.tower, self.output = tower, output
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)

    def forward(self, pixels: Tensor) -> Tensor:
        """As `device.normalised`, then the tower."""
        images = pixels.float() * self.scale - self.shift
        return self.tower(images) if self.output is None else getattr(self.tower(pixel_values=images), self.output)


class FromTokens(nn.Module):
    """int64 [q, tokens] to a tower's vectors, float [q, d]; some models were trained without the mask."""

    def __init__(self, tower: nn.Module, *, output: str) -> None:
        """output: the name of the vectors in what the tower returns."""
        super().__init__()
        self.tower, self.output = tower, output

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The tower."""
        return getattr(self.tower(input_ids=input_ids, attention_mask=attention_mask), self.output)


def traced_images(tower: nn.Module, preprocessing: Preprocessing, *, output: str | None) -> Traced:
    """An image tower for any number of pictures of the encoder's size."""
    size = (3, preprocessing.height, preprocessing.width)
    module = FromBytes(tower, preprocessing, output=output).eval()
    return Traced(module, {"pixels": torch.zeros(2, *size, dtype=torch.uint8)}, {"pixels": (-1, *size)})


def traced_texts(tower: nn.Module, tokens: dict[str, Tensor], *, output: str, padded_to: int) -> Traced:
    """A text tower for any number of texts. tokens: those of two; padded_to: their length, -1 for any."""
    return Traced(FromTokens(tower, output=output).eval(), tokens, dict.fromkeys(tokens, (-1, padded_to)))
