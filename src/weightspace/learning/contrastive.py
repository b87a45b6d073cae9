"""Contrastive alignment of two views: NT-Xent with masked negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(a: Tensor, b: Tensor, temperature: float, groups: Tensor | None = None) -> Tensor:
    """Normalised temperature-scaled cross entropy of N pairs.

    For the 2N rows of both views, ``-log exp(s_ip / t) / sum_j exp(s_ij / t)`` with cosine s,
    partner p and j over all rows but i; mean over the 2N rows.

    Args:
        a: first view ``(N, L)``.
        b: second view ``(N, L)``; row i belongs to row i of ``a``.
        temperature: t > 0.
        groups: ``(N,)``; rows of one group are no negatives of each other.

    Source: Chen et al. (2020), SimCLR, arXiv 2002.05709, equation 1.

    >>> nt_xent(torch.ones(2, 3), torch.ones(2, 3), 1.0)  # nothing to tell apart: log(2 N - 1)
    tensor(1.0986)

    """
    n = len(a)
    rows = F.normalize(torch.cat([a, b]), dim=1)  # (2N, L)
    similarity = rows @ rows.T / temperature
    partner = torch.arange(2 * n, device=a.device).roll(n)
    masked = torch.eye(2 * n, dtype=torch.bool, device=a.device)
    if groups is not None:
        both = groups.to(a.device).repeat(2)
        masked |= both[:, None] == both[None, :]
        masked[torch.arange(2 * n, device=a.device), partner] = False
    return F.cross_entropy(similarity.masked_fill(masked, -torch.inf), partner)
