"""Order of hidden units: bring networks to that of a reference, or draw another order for each.

Source of the matching: Ainsworth, Hayase, Srinivasa (2022), Git Re-Basin, arXiv 2209.04836,
algorithm 1 (weight matching).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from weightspace.weights.spec import Spec, Weights, blocks, take

SWEEPS = 20  # over all groups; matching stops earlier when nothing changes
BLOCK_ENTRIES = 1 << 22  # entries of the networks matched at once: 32 MiB in float64


def match_weights(
    spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Permutations that bring each of N networks closest to another, by coordinate descent.

    Each group in turn gets its best permutation given the others, a linear assignment problem;
    the squared distance falls in every step.

    Args:
        spec: the architecture.
        reference: one network, tensors ``(1, *shape)``.
        weights: the networks to be reordered, tensors ``(N, *shape)``.

    Returns:
        Group -> index tensor ``(N, size)``, for :meth:`Spec.permute`.

    """
    size = max(1, BLOCK_ENTRIES // spec.numel)
    found = [_match_block(spec, reference, part) for part in blocks(weights, size)]
    return {group: torch.cat([f[group] for f in found]) for group in spec.groups}


def align(spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Weights:
    """Reorder each of N networks ``(N, *shape)`` to match one ``(1, *shape)``; outputs stay the same."""
    return spec.permute(weights, match_weights(spec, reference, weights))


def _match_block(
    spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Match some networks at once; those where a sweep changes nothing are finished."""
    a, b = ({k: w[k].double() for k in spec.names} for w in (reference, weights))
    count = len(b[spec.names[0]])
    chosen = {g: torch.arange(n).repeat(count, 1) for g, n in spec.groups.items()}
    active = torch.arange(count)
    for _ in range(SWEEPS):
        now, changed = take(b, active), torch.zeros(len(active), dtype=torch.bool)
        for group in chosen:
            others = {g: p[active] for g, p in chosen.items() if g != group}
            gain = _similarity(spec, a, now, others, group)
            best = _assign(gain)
            better = _total(gain, best) > _total(gain, chosen[group][active]) + 1e-9
            chosen[group][active[better]] = best[better]
            changed |= better
        active = active[changed]
        if not len(active):
            break
    return chosen


def _assign(gain: Tensor) -> Tensor:
    """Best assignment ``(N, n)`` of gains ``(N, n, n)``."""
    found = [torch.from_numpy(linear_sum_assignment(g, maximize=True)[1]) for g in gain.numpy()]
    return torch.stack(found)


def _similarity(
    spec: Spec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    group: str,
) -> Tensor:
    """Inner products of the units of a group, reference by candidate: ``(N, n, n)``.

    The other groups of the candidates ``b`` are reordered by ``others`` first, in the tensors that
    count.
    """
    n, count = spec.groups[group], len(b[spec.names[0]])
    gain = torch.zeros(count, n, n, dtype=torch.float64)
    for t in spec.tensors:
        if not any(axis is not None and axis.group == group for axis in t.axes):
            continue
        moved = t.permute(b[t.name], others)
        for dim, axis in enumerate(t.axes, start=1):
            if axis is not None and axis.group == group:
                x, y = (w.movedim(dim, 1).reshape(len(w), n, -1) for w in (a[t.name], moved))
                gain += x @ y.mT
    return gain


def _total(gain: Tensor, order: Tensor) -> Tensor:
    """Sum ``(N,)`` of the gains ``(N, n, n)`` of orders ``(N, n)``."""
    return gain.gather(2, order[..., None]).sum((1, 2))
