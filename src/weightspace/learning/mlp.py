"""The multilayer perceptrons that autoencoders and encoders are made of."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(sizes: list[int], rng: torch.Generator) -> nn.Sequential:
    """Linear layers with GELU between them, initialised from a generator.

    Args:
        sizes: features of input, hidden layers and output.
        rng: source of the initial weights, uniform in ``±1/sqrt(fan_in)``.

    >>> [type(layer).__name__ for layer in mlp([4, 8, 2], torch.Generator())]
    ['Linear', 'GELU', 'Linear']

    """
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        linear = nn.Linear(a, b, device="meta")  # takes no time for an initialisation of torch's
        bound = 1 / math.sqrt(a)
        for name, shape in (("weight", (b, a)), ("bias", (b,))):
            value = torch.empty(shape)
            nn.init.uniform_(value, -bound, bound, generator=rng)
            setattr(linear, name, nn.Parameter(value))
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers[:-1])


class SkipMlp(nn.Module):
    """MLP plus a linear map from input to output; the MLP starts small.

    Args:
        sizes: features of input, hidden layers and output.
        rng: source of the initial weights.

    """

    def __init__(self, sizes: list[int], rng: torch.Generator) -> None:
        super().__init__()
        self.mlp = mlp(sizes, rng)
        self.linear = mlp([sizes[0], sizes[-1]], rng)
        with torch.no_grad():
            for value in list(self.mlp.parameters())[-2:]:
                value.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs)`` to ``(N, outputs)``."""
        out: Tensor = self.linear(x) + self.mlp(x)
        return out


class ResidualMlp(nn.Module):
    """MLP with pre-normalised residual blocks: the shape that deep fits are made of.

    Args:
        inputs: input features.
        width: features inside.
        depth: residual blocks of two linear layers.
        outputs: output features.
        rng: source of the initial weights; the blocks start as
            identity and the output small.

    """

    def __init__(
        self, inputs: int, width: int, depth: int, outputs: int, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.first = mlp([inputs, width], rng)
        self.blocks = nn.ModuleList(mlp([width, width, width], rng) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.last = mlp([width, outputs], rng)
        with torch.no_grad():
            for value in self.last.parameters():
                value.mul_(0.3)
            for block in self.blocks:
                for value in list(block.parameters())[-2:]:  # weight and bias of the last layer
                    value.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs)`` to ``(N, outputs)``."""
        x = self.first(x)
        for norm, block in zip(self.norms, self.blocks, strict=False):
            x = x + block(norm(x))
        out: Tensor = self.last(self.norms[-1](x))
        return out
