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

    >>> from weightspace.weights.spec import Axis, TensorSpec
    >>> spec = Spec("example", (TensorSpec("bias", (3,), "parameter", (Axis("units"),)),))
    >>> orders = random_permutations(spec, 4, torch.Generator().manual_seed(0))
    >>> orders["units"].shape, orders["units"].sort(1).values[0]
    (torch.Size([4, 3]), tensor([0, 1, 2]))

    """
    return {g: torch.rand(count, n, generator=rng).argsort(1) for g, n in spec.groups.items()}


def shuffled(spec: Spec, weights: Mapping[str, Tensor], rng: torch.Generator) -> Weights:
    """The same N networks, each with its hidden units in another random order.

    Args:
        spec: the architecture.
        weights: tensors ``(N, *shape)``.
        rng: source of the orders.

    >>> from weightspace.weights.spec import Axis, TensorSpec
    >>> spec = Spec("example", (TensorSpec("bias", (3,), "parameter", (Axis("units"),)),))
    >>> weights = {"bias": torch.arange(30).reshape(10, 3)}
    >>> moved = shuffled(spec, weights, torch.Generator().manual_seed(0))["bias"]
    >>> torch.equal(moved, weights["bias"]), torch.equal(moved.sort(1).values, weights["bias"])
    (False, True)

    """
    count = len(next(iter(weights.values())))
    return spec.permute(weights, random_permutations(spec, count, rng))
