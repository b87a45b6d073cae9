"""Reorder the hidden units of each network on its own; its outputs stay the same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from weightspace.weights.spec import Spec, TensorSpec, Weights


def permute_each(
    spec: Spec, weights: Mapping[str, Tensor], permutations: Mapping[str, Tensor]
) -> Weights:
    """Reorder the hidden units of each network on its own: the outputs stay the same.

    Args:
        spec: the architecture.
        weights: tensors ``(N, *shape)``.
        permutations: group -> index tensor ``(N, size)``; groups not named stay as they are.

    """
    return dict(weights) | {
        t.name: _permute(t, weights[t.name], permutations) for t in spec.tensors
    }


def random_permutations(spec: Spec, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform orders of every group for ``count`` networks: group -> index tensor ``(count, size)``."""
    return {g: torch.rand(count, n, generator=generator).argsort(1) for g, n in spec.groups.items()}


def shuffled(spec: Spec, weights: Mapping[str, Tensor], generator: torch.Generator) -> Weights:
    """The same N networks ``(N, *shape)``, each with its hidden units in a random order."""
    count = len(next(iter(weights.values())))
    return permute_each(spec, weights, random_permutations(spec, count, generator))


def _permute(t: TensorSpec, w: Tensor, permutations: Mapping[str, Tensor]) -> Tensor:
    """One tensor ``(N, *shape)`` of N networks in their new orders."""
    for dim, axis in enumerate(t.axes, start=1):
        if axis is not None and axis.group in permutations:
            index = permutations[axis.group]  # (N, n)
            if axis.block > 1:
                index = (index[..., None] * axis.block + torch.arange(axis.block)).flatten(1)
            rows = torch.arange(len(w))[:, None]
            w = w.movedim(dim, 1)[rows, index].movedim(1, dim)
    return w
