"""Small convolutional network without normalisation: conv, ReLU, 2x2 average pooling; linear."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.errors import problem
from weightspace.nets._chain import Chain
from weightspace.nets._layers import convolutional
from weightspace.params import NetsSettings
from weightspace.weights.spec import Axis, Spec, TensorSpec


class Cnn(nn.Module):
    """3x3 convolutions with ReLU and 2x2 average pooling, then one linear layer.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        channels: channels of each convolution.

    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        widths = (shape[0], *channels)
        self.pixels = (shape[1] >> len(channels)) * (shape[2] >> len(channels))
        if self.pixels == 0:
            raise problem(
                "image too small for the number of poolings",
                where="params.yaml: nets.cnn.channels",
                got=f"{len(channels)} poolings of {shape[1]}x{shape[2]} images",
                expected="at least one pixel left",
            )
        pairs = pairwise(widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.head = nn.Linear(widths[-1] * self.pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-softmax outputs ``(B, classes)`` of images ``(B, C, H, W)``."""
        for conv in self.convs:
            x = F.avg_pool2d(F.relu(conv(x)), 2)  # (B, c, H/2, W/2)
        out: Tensor = self.head(x.flatten(1))
        return out

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """The layers of N networks."""
        convs = [(f"convs.{i}.weight", f"convs.{i}.bias") for i in range(len(self.convs))]
        return convolutional(images, weights, convs)


def build(shape: tuple[int, int, int], classes: int, settings: NetsSettings) -> Cnn:
    """Network for images of ``shape`` (C, H, W) with ``classes`` outputs."""
    return Cnn(shape, classes, settings.cnn.channels)


def spec(module: Cnn) -> Spec:
    """Tensors and permutation groups: the channels of each convolution may be reordered."""
    tensors = []
    before: Axis | None = None
    for i, conv in enumerate(module.convs):
        after = Axis(f"convs.{i}")
        shape = tuple(conv.weight.shape)  # type: ignore[union-attr, arg-type]
        tensors.append(
            TensorSpec(f"convs.{i}.weight", shape, "parameter", (after, before, None, None))
        )
        tensors.append(TensorSpec(f"convs.{i}.bias", shape[:1], "parameter", (after,)))
        before = after
    assert before is not None
    flat = Axis(before.group, module.pixels)
    head = tuple(module.head.weight.shape)
    tensors.append(TensorSpec("head.weight", head, "parameter", (None, flat)))
    tensors.append(TensorSpec("head.bias", head[:1], "parameter", (None,)))
    return Spec("cnn", tuple(tensors), ("head.weight", "head.bias"))
