"""EfficientNet-Lite0 as a plain module that loads the published checkpoint strictly. Inference only.

The architecture alone belongs here: where the weights come from is `weights.py`, what they are used for `builtin.py`.
Written out because the package that ships it is unmaintained; outputs agree with it within 1e-5 (measured once).

Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; the Lite variant
(ReLU6, no squeeze-and-excitation, fixed stem and head) is github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

CLASSES = 1000
_BATCH_NORM_EPS = 1e-3
# Which batch normalisation of the checkpoint follows which convolution, in the stem and head and in every block.
_NORM_AFTER = {
    "conv_stem": "bn0",
    "conv_head": "bn1",
    "expand_conv": "bn0",
    "depthwise_conv": "bn1",
    "project_conv": "bn2",
}
# (repeats, kernel, stride of the first, expansion, output channels)
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip


class SamePadConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: the odd pixel goes right and below, which `padding=` cannot say.
    Its bias is the batch normalisation that followed it in training."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        # Even padding is left to the convolution itself, which saves a copy of its input.
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        """float [n, c, h, w] -> float [n, c', ceil(h / stride), ceil(w / stride)]."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride > 1:
            down, across = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in input.shape[-2:])
            input = functional.pad(input, (across // 2, across - across // 2, down // 2, down - down // 2))
        return super().forward(input)


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; the input is added where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.has_skip = stride == 1 and inputs == outputs
        self.expand_conv = SamePadConv(inputs, middle) if expansion > 1 else None
        self.depthwise_conv = SamePadConv(middle, middle, kernel=kernel, stride=stride, groups=middle)
        self.project_conv = SamePadConv(middle, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """float [n, inputs, h, w] -> float [n, outputs, h / stride, w / stride]."""
        x = images if self.expand_conv is None else functional.relu6(self.expand_conv(images))
        x = self.project_conv(functional.relu6(self.depthwise_conv(x)))
        return x + images if self.has_skip else x


class EfficientNetLite0(nn.Module):
    """Normalised pixels to the logits of the 1,000 ImageNet classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SamePadConv(3, 32, kernel=3, stride=2)
        self.blocks = nn.ModuleList(_blocks(32))
        self.conv_head = SamePadConv(320, 1280)
        self.fc = nn.Linear(1280, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """float [n, 3, 224, 224] -> logits, float [n, 1000]."""
        x = functional.relu6(self.conv_stem(images))
        for block in self.blocks:
            x = block(x)
        return self.fc(functional.relu6(self.conv_head(x)).mean(dim=(2, 3)))


def efficientnet_lite0(checkpoint: Mapping[str, Tensor]) -> EfficientNetLite0:
    """The module with the published checkpoint's weights, for inference.

    Raises:
        KeyError: a batch normalisation lacks a number.
        RuntimeError: another weight is missing, unexpected or of another shape.
    """
    model = EfficientNetLite0()
    model.load_state_dict(_folded({_own_name(name): tensor for name, tensor in checkpoint.items()}), strict=True)
    return model.eval().requires_grad_(False)


def _blocks(inputs: int) -> list[InvertedBottleneck]:
    blocks = []
    for repeats, kernel, first_stride, expansion, outputs in _STAGES:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            blocks.append(InvertedBottleneck(inputs, outputs, kernel=kernel, stride=stride, expansion=expansion))
            inputs = outputs
    return blocks


def _own_name(name: str) -> str:
    return name.replace("._", ".").removeprefix("_")


def _folded(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function without batch normalisations: each is put into the convolution before it. Empties `state`."""
    folded = {}
    for weight in [
        name for name in state if name.endswith("conv.weight") or name.startswith(("conv_stem", "conv_head"))
    ]:
        block, _, convolution = weight.removesuffix(".weight").rpartition(".")
        norm = f"{block}.{_NORM_AFTER[convolution]}".removeprefix(".")
        gamma, beta, mean, variance = (
            state.pop(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        )
        state.pop(f"{norm}.num_batches_tracked")
        scale = gamma / (variance + _BATCH_NORM_EPS).sqrt()
        folded[weight] = state.pop(weight) * scale[:, None, None, None]
        folded[weight.removesuffix("weight") + "bias"] = beta - mean * scale
    return folded | state
