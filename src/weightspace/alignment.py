"""Alignment of networks: reorder hidden units so that two networks' weights match best.

Source: Ainsworth, Hayase, Srinivasa (2022), Git Re-Basin, arXiv 2209.04836, algorithm 1 (weight
matching).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightspace.spec import Spec, Weights, blocks

SWEEPS = 20  # over all groups; matching stops earlier when nothing changes


def match_weights(
    spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Permutations that bring one network closest to another, by coordinate descent.

    Each group in turn gets its best permutation given the others, a linear assignment problem;
    the squared distance falls in every step.

    Args:
        spec: the architecture.
        reference: one network, tensors ``(1, *shape)``.
        weights: the network to be reordered, tensors ``(1, *shape)``.

    Returns:
        Group -> index tensor, for :meth:`Spec.permute`.

    """
    chosen = {group: torch.arange(size) for group, size in spec.groups.items()}
    for _ in range(SWEEPS):
        changed = False
        for group in chosen:
            others = {g: p for g, p in chosen.items() if g != group}
            gain = _similarity(spec, reference, spec.permute(weights, others), group)
            best = torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])
            if float(_total(gain, best)) > float(_total(gain, chosen[group])) + 1e-9:
                chosen[group], changed = best, True
        if not changed:
            break
    return chosen


def align(spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Weights:
    """Reorder one network to match another; its outputs stay the same."""
    return spec.permute(weights, match_weights(spec, reference, weights))


def align_all(
    spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> Weights:
    """Reorder each of N networks ``(N, *shape)`` on its own to match one ``(1, *shape)``."""
    aligned = [align(spec, reference, one) for one in blocks(weights, 1)]
    return {name: torch.cat([one[name] for one in aligned]) for name in spec.names}


def _similarity(spec: Spec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], group: str) -> Tensor:
    """Inner products of the units of a group: ``(n, n)``, reference by candidate."""
    gain = torch.zeros(spec.groups[group], spec.groups[group], dtype=torch.float64)
    for t in spec.tensors:
        for dim, axis in enumerate(t.axes):
            if axis is not None and axis.group == group:
                x, y = (w[t.name][0].double().movedim(dim, 0) for w in (a, b))
                gain += x.reshape(len(gain), -1) @ y.reshape(len(gain), -1).T
    return gain


def _total(gain: Tensor, order: Tensor) -> Tensor:
    return gain[torch.arange(len(order)), order].sum()
