"""Order of hidden units: bring networks to that of a reference, or draw another order for each.

Source of the matching: Ainsworth, Hayase, Srinivasa (2022), Git Re-Basin, arXiv 2209.04836,
algorithm 1 (weight matching).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
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

    >>> from weightspace.weights.spec import Axis, TensorSpec
    >>> spec = Spec("example", (TensorSpec("bias", (3,), "parameter", (Axis("units"),)),))
    >>> reference = {"bias": torch.tensor([[1.0, 2, 3]])}
    >>> match_weights(spec, reference, {"bias": torch.tensor([[3.1, 0.9, 2]])})
    {'units': tensor([[1, 2, 0]])}

    """
    size = max(1, BLOCK_ENTRIES // spec.numel)
    orders = [_match_block(spec, reference, part) for part in blocks(weights, size)]
    return {group: torch.cat([order[group] for order in orders]) for group in spec.groups}


def align(spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Weights:
    """Reorder each of N networks to match a reference; outputs stay the same.

    Args:
        spec: the architecture.
        reference: one network, tensors ``(1, *shape)``.
        weights: the networks to be reordered, tensors ``(N, *shape)``.

    >>> from weightspace.weights.spec import Axis, TensorSpec
    >>> spec = Spec("example", (TensorSpec("bias", (3,), "parameter", (Axis("units"),)),))
    >>> align(spec, {"bias": torch.tensor([[1.0, 2, 3]])}, {"bias": torch.tensor([[3.5, 0.5, 2]])})
    {'bias': tensor([[0.5000, 2.0000, 3.5000]])}

    """
    return spec.permute(weights, match_weights(spec, reference, weights))


def _match_block(
    spec: Spec, reference: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Match some networks at once, on the CPU; those where a sweep changes nothing are finished.

    Args:
        spec: the architecture.
        reference: tensors ``(1, *shape)``.
        weights: tensors ``(N, *shape)``.

    """
    a, b = ({k: w[k].cpu().double() for k in spec.names} for w in (reference, weights))
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
    from scipy.optimize import linear_sum_assignment  # slow to import, and needed on demand

    orders = [torch.from_numpy(linear_sum_assignment(g, maximize=True)[1]) for g in gain.numpy()]
    return torch.stack(orders)


def _similarity(
    spec: Spec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    others: Mapping[str, Tensor],
    group: str,
) -> Tensor:
    """Inner products of the units of a group, reference by candidate: ``(N, n, n)``.

    Args:
        spec: the architecture.
        a: the reference, tensors ``(1, *shape)``.
        b: the candidates, tensors ``(N, *shape)``.
        others: orders ``(N, size)`` of the other groups, in which the candidates are put first, in the
            tensors that count.
        group: the group whose n units are compared.

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
