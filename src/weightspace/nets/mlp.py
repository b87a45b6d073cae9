"""Fully connected network with ReLU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.nets._chain import Chain, Layer
from weightspace.nets._layers import Linear, Relu
from weightspace.params import MlpSettings
from weightspace.weights.spec import Axis, Spec, TensorSpec


class Mlp(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        hidden: units of each hidden layer.

    >>> import torch
    >>> Mlp((1, 8, 8), 3, (20, 16))(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 3])

    """

    def __init__(self, shape: tuple[int, int, int], classes: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        widths = (math.prod(shape), *hidden)
        pairs = pairwise(widths)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-softmax outputs ``(B, classes)`` of images ``(B, C, H, W)``."""
        x = x.flatten(1)
        for layer in self.layers:
            x = F.relu(layer(x))
        out: Tensor = self.head(x)
        return out

    def batched(self, weights: Mapping[str, Tensor], images: Tensor) -> Chain:
        """The layers of N networks."""
        layers: list[Layer] = []
        for i in range(len(self.layers)):
            layers += [Linear(f"layers.{i}.weight", f"layers.{i}.bias"), Relu()]
        layers.append(Linear("head.weight", "head.bias"))
        return Chain(images.flatten(-3).mT, layers, weights)


def build(shape: tuple[int, int, int], classes: int, settings: MlpSettings) -> Mlp:
    """Build the network.

    Args:
        shape: channels, height, width of an image.
        classes: number of outputs.
        settings: section of this architecture under ``nets`` in params.yaml.

    """
    return Mlp(shape, classes, settings.hidden)


def spec(module: Mlp) -> Spec:
    """Tensors and permutation groups: the units of each hidden layer may be reordered."""
    tensors = []
    before: Axis | None = None
    names = [f"layers.{i}" for i in range(len(module.layers))]
    for name, layer in zip([*names, "head"], [*module.layers, module.head], strict=True):
        after = None if name == "head" else Axis(name)
        shape = tuple(layer.weight.shape)  # type: ignore[union-attr, arg-type]
        tensors.append(TensorSpec(f"{name}.weight", shape, "parameter", (after, before)))
        tensors.append(TensorSpec(f"{name}.bias", shape[:1], "parameter", (after,)))
        before = after
    return Spec("mlp", tuple(tensors), ("head.weight", "head.bias"))
