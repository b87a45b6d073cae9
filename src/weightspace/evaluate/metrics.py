"""How alike two sets of networks behave, and how well achieved results follow their targets.

All work in float64 and on batches: outputs are pre-softmax, ``(M, B, c)`` for M members.
An undefined value (the Pearson correlation of a constant, say) counts as 0: no evidence of
likeness.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over the outputs of each sample, mean over samples: ``(M,)``."""
    a, b = a.double(), b.double()
    product = a.norm(dim=-1) * b.norm(dim=-1)
    return _ratio((a * b).sum(-1), product).mean(-1)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each output over the samples, mean over outputs: ``(M,)``."""
    a, b = a.double(), b.double()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    product = a.norm(dim=1) * b.norm(dim=1)
    return _ratio((a * b).sum(1), product).mean(-1)


def agreement(a: Tensor, b: Tensor) -> Tensor:
    """Share of samples for which both predict the same class: ``(M,)``."""
    return (a.argmax(-1) == b.argmax(-1)).double().mean(-1)


def chance_agreement(a: Tensor, b: Tensor) -> Tensor:
    """Agreement of independent predictions with the same class frequencies: ``(M,)``."""
    classes = a.shape[-1]
    share_a, share_b = (
        torch.nn.functional.one_hot(x.argmax(-1), classes).double().mean(1) for x in (a, b)
    )
    return (share_a * share_b).sum(-1)


def kappa(a: Tensor, b: Tensor) -> Tensor:
    """Cohen's kappa, agreement beyond chance: ``(M,)``; 0 where both only ever predict one same class.

    Source: Cohen (1960), A coefficient of agreement for nominal scales.
    """
    observed, chance = agreement(a, b), chance_agreement(a, b)
    return _ratio(observed - chance, 1 - chance)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 1e-12, top / bottom.clamp_min(1e-12), torch.zeros_like(top))


def r2_identity(target: np.ndarray, achieved: np.ndarray) -> float:
    """Coefficient of determination of ``achieved = target``: 1 is perfect, it may be negative."""
    total = np.square(target - target.mean()).sum()
    return float(1 - np.square(achieved - target).sum() / total) if total > 0 else float("nan")


def r2_pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Pearson correlation, the R2 of a fitted line; 0 if either is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() ** 2 / scale) if scale > 1e-24 else 0.0


def spearman_rows(target: np.ndarray, achieved: np.ndarray) -> np.ndarray:
    """Rank correlation within each row: ``(T, K), (T, K) -> (T,)``; ties get mean ranks."""
    a, b = rankdata(target, axis=1), rankdata(achieved, axis=1)
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    out: np.ndarray = np.divide((a * b).sum(1), scale, out=np.zeros(len(a)), where=scale > 0)
    return out


def pairwise_agreement(labels: Tensor) -> float:
    """Mean fraction of images on which two different networks predict the same class.

    Args:
        labels: predicted classes ``(N, Q)``.

    Returns:
        Mean over all pairs; NaN where there is none.

    >>> pairwise_agreement(torch.tensor([[0, 1], [0, 2], [0, 1]]))
    0.6666666666666666

    """
    n = len(labels)
    if n < 2:
        return float("nan")
    equal = (labels[:, None] == labels[None]).double().mean(-1)
    return float((equal.sum() - n) / (n * (n - 1)))


def with_interval(
    name: str,
    statistic: Callable[[np.ndarray], float],
    units: int,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Bounds ``<name>_low`` and ``<name>_high`` of a statistic, by :func:`bootstrap`.

    Args:
        name: of the metric.
        statistic: value for an index array of units, with repetitions.
        units: number of units.
        resamples: number of resamples; 0 gives no bounds.
        rng: random stream.

    """
    if not resamples:
        return {}
    low, high = bootstrap(statistic, units, resamples, rng)
    return {f"{name}_low": low, f"{name}_high": high}


def bootstrap(
    statistic: Callable[[np.ndarray], float], units: int, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of a statistic under resampling of units (tasks, not members).

    Args:
        statistic: value for an index array of units, with repetitions.
        units: number of units.
        resamples: number of resamples.
        rng: random stream.

    Source: Efron (1979), Bootstrap methods.

    """
    values = [statistic(rng.integers(units, size=units)) for _ in range(resamples)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


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
