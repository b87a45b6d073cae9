"""Contrastive alignment of two views: NT-Xent with masked negatives, and retrieval."""

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

    """
    n = len(a)
    rows = F.normalize(torch.cat([a, b]), dim=1)  # (2N, L)
    similarity = rows @ rows.T / temperature
    partner = torch.arange(2 * n, device=a.device).roll(n)
    masked = torch.eye(2 * n, dtype=torch.bool, device=a.device)
    if groups is not None:
        both = groups.repeat(2)
        masked |= both[:, None] == both[None, :]
        masked[torch.arange(2 * n, device=a.device), partner] = False
    return F.cross_entropy(similarity.masked_fill(masked, -torch.inf), partner)


def recall_at(similarity: Tensor, queries: Tensor, items: Tensor, k: int) -> tuple[float, float]:
    """Share of queries with an item of their own label among the k most similar, and its chance.

    Args:
        similarity: ``(Q, M)``.
        queries: label of each query ``(Q,)``.
        items: label of each item ``(M,)``.
        k: how many items are retrieved.

    Returns:
        Recall, and the recall of k items drawn at random without replacement.

    """
    k = min(k, len(items))
    top = similarity.topk(k, 1).indices  # (Q, k)
    recall = (items[top] == queries[:, None]).any(1).double().mean()
    right = (items[None, :] == queries[:, None]).sum(1).double()
    wrong = len(items) - right
    miss = torch.ones_like(right)
    for i in range(k):
        miss *= ((wrong - i) / (len(items) - i)).clamp_min(0)
    return float(recall), float((1 - miss).mean())
