"""Random orders of hidden units, in which the outputs of a network stay the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from weightspace.weights.spec import Spec, Weights


def random_permutations(spec: Spec, count: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Uniform orders of every group for ``count`` networks: group -> index tensor ``(count, size)``.

    Args:
        spec: the architecture.
        count: number of networks.
        rng: source of the orders.

    """
    return {g: torch.rand(count, n, generator=rng).argsort(1) for g, n in spec.groups.items()}


def shuffled(spec: Spec, weights: Mapping[str, Tensor], rng: torch.Generator) -> Weights:
    """The same N networks, each with its hidden units in a random order of its own.

    Args:
        spec: the architecture.
        weights: tensors ``(N, *shape)``.
        rng: source of the orders.

    """
    count = len(next(iter(weights.values())))
    return spec.permute(weights, random_permutations(spec, count, rng))
