"""Small convolutional network: conv, batch normalisation, ReLU, 2x2 average pooling; linear."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.errors import problem
from weightspace.nets._batch_norm import BatchNorm, batch_norm_tensors, running_affine
from weightspace.nets._chain import Chain
from weightspace.nets._layers import Normalise, convolutional
from weightspace.params import NetsSettings
from weightspace.weights.spec import Axis, Spec, TensorSpec


class CnnBn(nn.Module):
    """3x3 convolutions, each normalised, with ReLU and 2x2 average pooling, then one linear layer.

    The convolutions have no bias: normalisation would remove it.

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
                where="params.yaml: nets.cnn_bn.channels",
                got=f"{len(channels)} poolings of {shape[1]}x{shape[2]} images",
                expected="at least one pixel left",
            )
        pairs = pairwise(widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairs)
        self.norms = nn.ModuleList(BatchNorm(c) for c in channels)
        self.head = nn.Linear(widths[-1] * self.pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-softmax outputs ``(B, classes)`` of images ``(B, C, H, W)``."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2)  # (B, c, H/2, W/2)
        out: Tensor = self.head(x.flatten(1))
        return out

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """The layers of N networks."""
        folded = dict(weights)
        convs: list[tuple[str | None, ...]] = []
        norms: list[tuple[Any, ...]] = []
        for i in range(len(self.convs)):
            weight, bias, norm = f"convs.{i}.weight", f"convs.{i}.bias", f"norms.{i}"
            running = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
            affine = f"{norm}.weight", f"{norm}.bias"
            if self.training:
                convs.append((weight, None))
                norms.append((Normalise(*running), *affine))
            else:  # normalisation by fixed statistics is part of the product
                scale, folded[bias] = running_affine(*running, *(weights[name] for name in affine))
                folded[weight] = weights[weight] * scale[..., None, None, None]
                convs.append((weight, bias))
        return convolutional(images, folded, convs, norms)


def build(shape: tuple[int, int, int], classes: int, settings: NetsSettings) -> CnnBn:
    """Network for images of ``shape`` (C, H, W) with ``classes`` outputs."""
    return CnnBn(shape, classes, settings.cnn_bn.channels)


def spec(module: CnnBn) -> Spec:
    """Tensors and permutation groups: the channels of each convolution may be reordered."""
    convs, norms = [], []
    before: Axis | None = None
    for i, conv in enumerate(module.convs):
        after = Axis(f"convs.{i}")
        shape = tuple(conv.weight.shape)  # type: ignore[union-attr, arg-type]
        axes = (after, before, None, None)
        convs.append(TensorSpec(f"convs.{i}.weight", shape, "parameter", axes))
        norms += batch_norm_tensors(f"norms.{i}", shape[0], after)
        before = after
    assert before is not None
    head = tuple(module.head.weight.shape)
    last = [
        TensorSpec("head.weight", head, "parameter", (None, Axis(before.group, module.pixels))),
        TensorSpec("head.bias", head[:1], "parameter", (None,)),
    ]
    return Spec("cnn_bn", (*convs, *norms, *last), ("head.weight", "head.bias"))
