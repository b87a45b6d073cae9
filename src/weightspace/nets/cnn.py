"""Small convolutional network: conv, batch normalisation on demand, ReLU, 2x2 pooling; linear."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.errors import problem
from weightspace.nets._batch_norm import BatchNorm, batch_norm_tensors, running_affine
from weightspace.nets._chain import Chain
from weightspace.nets._layers import Conv3x3, Linear, Normalise, ReluPool
from weightspace.nets._patches import patches
from weightspace.params import CnnSettings
from weightspace.weights.spec import Axis, Spec, TensorSpec


class Cnn(nn.Module):
    """3x3 convolutions with ReLU and 2x2 average pooling, then one linear layer.

    With batch normalisation the convolutions have no bias: normalisation would remove it.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        channels: channels of each convolution.
        batch_norm: normalise after each convolution.

    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        channels: tuple[int, ...],
        *,
        batch_norm: bool = False,
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
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=not batch_norm) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNorm(c) for c in channels if batch_norm)
        self.head = nn.Linear(widths[-1] * self.pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-softmax outputs ``(B, classes)`` of images ``(B, C, H, W)``."""
        for i, conv in enumerate(self.convs):
            x = conv(x)  # (B, c, H, W)
            if self.norms:
                x = self.norms[i](x)
            x = F.avg_pool2d(F.relu(x), 2)  # (B, c, H/2, W/2)
        out: Tensor = self.head(x.flatten(1))
        return out

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """The layers of N networks."""
        weights = dict(weights)
        convs: list[tuple[str | None, ...]] = []
        norms: list[tuple[Any, ...]] = []
        for i in range(len(self.convs)):
            weight, bias, norm = f"convs.{i}.weight", f"convs.{i}.bias", f"norms.{i}"
            if not self.norms:
                convs.append((weight, bias))
                continue
            running = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
            affine = f"{norm}.weight", f"{norm}.bias"
            if self.training:
                convs.append((weight, None))
                norms.append((Normalise(*running), *affine))
            else:  # normalisation by fixed statistics is part of the product
                scale, weights[bias] = running_affine(*running, *(weights[name] for name in affine))
                weights[weight] = weights[weight] * scale[..., None, None, None]
                convs.append((weight, bias))
        return _chain(images, weights, convs, norms)


def _chain(
    images: Tensor,
    weights: Mapping[str, Tensor],
    convs: list[tuple[str | None, ...]],
    norms: list[tuple[Any, ...]],
) -> Chain:
    """3x3 convolutions, each with ReLU and 2x2 pooling, then one linear layer, ``head``.

    Args:
        images: ``(N, B, C, H, W)``, or ``(B, C, H, W)`` for all networks.
        weights: those of N networks.
        convs: names of the weight and the bias of each convolution.
        norms: steps of a :class:`Chain`, one after each convolution, if there are any.

    """
    h, w = images.shape[-2:]
    steps: list[tuple[Any, ...]] = []
    for i, names in enumerate(convs):
        steps += [(Conv3x3(h, w) if i else Linear(), *names), *norms[i : i + 1], (ReluPool(h, w),)]
        h, w = h // 2, w // 2
    steps.append((Linear(), "head.weight", "head.bias"))
    return Chain(patches(images.movedim(-4, -1)), steps, weights)


def build(shape: tuple[int, int, int], classes: int, settings: CnnSettings) -> Cnn:
    """Network for images of ``shape`` (C, H, W) with ``classes`` outputs."""
    return Cnn(shape, classes, settings.channels, batch_norm=settings.batch_norm)


def spec(module: Cnn) -> Spec:
    """Tensors and permutation groups: the channels of each convolution may be reordered."""
    convs: list[TensorSpec] = []
    norms: list[TensorSpec] = []
    before: Axis | None = None
    for i, conv in enumerate(module.convs):
        after = Axis(f"convs.{i}")
        shape = tuple(conv.weight.shape)  # type: ignore[union-attr, arg-type]
        axes = (after, before, None, None)
        convs.append(TensorSpec(f"convs.{i}.weight", shape, "parameter", axes))
        if module.norms:
            norms += batch_norm_tensors(f"norms.{i}", shape[0], after)
        else:
            convs.append(TensorSpec(f"convs.{i}.bias", shape[:1], "parameter", (after,)))
        before = after
    assert before is not None
    head = tuple(module.head.weight.shape)
    last = [
        TensorSpec("head.weight", head, "parameter", (None, Axis(before.group, module.pixels))),
        TensorSpec("head.bias", head[:1], "parameter", (None,)),
    ]
    return Spec("cnn", (*convs, *norms, *last), ("head.weight", "head.bias"))
