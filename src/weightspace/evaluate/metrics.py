"""How alike two sets of networks behave, and how well achieved results follow their targets.

All work in float64 and on batches: outputs are pre-softmax, ``(M, B, c)`` for M members.
An undefined value (the Pearson correlation of a constant, say) counts as 0: no evidence of
likeness.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine over the outputs of each sample, mean over samples: ``(M,)``.

    >>> a = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # one member, two samples, two classes
    >>> cosine(a, 3 * a), cosine(a, -a), cosine(a, a.flip(-1))
    (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    a, b = a.double(), b.double()
    product = a.norm(dim=-1) * b.norm(dim=-1)
    return _ratio((a * b).sum(-1), product).mean(-1)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each output over the samples, mean over outputs: ``(M,)``.

    >>> a = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    >>> correlation(a, 3 * a + 1)  # scale and offset do not count
    tensor([1.], dtype=torch.float64)
    >>> correlation(a, torch.ones_like(a))  # a constant
    tensor([0.], dtype=torch.float64)
    """
    a, b = a.double(), b.double()
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    product = a.norm(dim=1) * b.norm(dim=1)
    return _ratio((a * b).sum(1), product).mean(-1)


def agreement(a: Tensor, b: Tensor) -> Tensor:
    """Fraction of samples for which both predict the same class: ``(M,)``.

    >>> a, b = torch.eye(2)[None], torch.eye(2)[[0, 0]][None]  # classes 0, 1 and 0, 0
    >>> agreement(a, b)
    tensor([0.5000], dtype=torch.float64)
    """
    return (a.argmax(-1) == b.argmax(-1)).double().mean(-1)


def chance_agreement(a: Tensor, b: Tensor) -> Tensor:
    """Agreement of independent predictions with the same class frequencies: ``(M,)``.

    >>> a, b = torch.eye(2)[[0, 0, 0, 1]][None], torch.eye(2)[None].repeat(1, 2, 1)
    >>> chance_agreement(a, b)  # 3/4 x 1/2 + 1/4 x 1/2
    tensor([0.5000], dtype=torch.float64)
    """
    classes = a.shape[-1]
    frequency_a, frequency_b = (
        torch.nn.functional.one_hot(x.argmax(-1), classes).double().mean(1) for x in (a, b)
    )
    return (frequency_a * frequency_b).sum(-1)


def kappa(a: Tensor, b: Tensor) -> Tensor:
    """Cohen's kappa, agreement beyond chance: ``(M,)``; 0 where both only ever predict one same class.

    Source: Cohen (1960), A coefficient of agreement for nominal scales.

    >>> a, constant = torch.eye(2)[None], torch.eye(2)[[0, 0]][None]
    >>> kappa(a, a), kappa(a, a.flip(1)), kappa(a, constant)
    (tensor([1.], dtype=torch.float64), tensor([-1.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    observed, chance = agreement(a, b), chance_agreement(a, b)
    return _ratio(observed - chance, 1 - chance)


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 1e-12, top / bottom.clamp_min(1e-12), torch.zeros_like(top))


def r2_identity(target: np.ndarray, achieved: np.ndarray) -> float:
    """Coefficient of determination of ``achieved = target``: 1 is perfect, it may be negative.

    >>> target = np.array([0.2, 0.4, 0.6])
    >>> r2_identity(target, target), r2_identity(target, np.full(3, target.mean()))
    (1.0, 0.0)
    >>> r2_identity(target, target[::-1])
    -3.0
    """
    total = np.square(target - target.mean()).sum()
    return float(1 - np.square(achieved - target).sum() / total) if total > 0 else float("nan")


def r2_pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Pearson correlation, the R2 of a fitted line; 0 if either is constant.

    >>> x = np.arange(4.0)
    >>> r2_pearson(x, 1 - 2 * x), r2_pearson(x, np.ones(4))
    (1.0, 0.0)
    """
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() ** 2 / scale) if scale > 1e-24 else 0.0


def spearman_rows(target: np.ndarray, achieved: np.ndarray) -> np.ndarray:
    """Rank correlation within each row: ``(T, K), (T, K) -> (T,)``; ties get mean ranks.

    >>> target = np.tile([0.2, 0.4, 0.6], (3, 1))
    >>> spearman_rows(target, np.array([[1, 2, 9], [9, 2, 1], [5, 5, 5]])).round(6)
    array([ 1., -1.,  0.])
    """
    from scipy.stats import rankdata  # slow to import, and commands that draw need none of it

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
        Mean over all pairs, from 0 to 1; NaN where there is none.

    >>> pairwise_agreement(torch.tensor([[0, 1], [0, 2], [0, 1]]))
    0.6666666666666666

    """
    n = len(labels)
    if n < 2:
        return float("nan")
    equal = (labels[:, None] == labels[None]).double().mean(-1)
    return float((equal.sum() - n) / (n * (n - 1)))


def error_overlap(wrong: Tensor) -> float:
    """Intersection over union of the error sets of two networks of one task, mean over pairs.

    Args:
        wrong: bool ``(..., n, B)``, the networks of a task along the last axis but one. Pairs without
            any error are left out; NaN where no pair is left.

    >>> wrong = torch.tensor([[True, False], [True, False], [True, True]])
    >>> error_overlap(wrong[:2]), error_overlap(wrong[1:])
    (1.0, 0.5)

    """
    wrong = wrong.double()
    both = wrong @ wrong.mT
    count = wrong.sum(-1)
    union = count[..., :, None] + count[..., None, :] - both
    upper = torch.triu(torch.ones_like(both), 1).bool() & (union > 0)
    return float((both[upper] / union[upper]).mean()) if upper.any() else float("nan")


def overlap_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of the error sets of a network and its partner: ``(M,)``.

    Args:
        a: where M networks are wrong, bool ``(M, B)``.
        b: the same of the partner of each.

    Returns:
        NaN where neither makes an error.

    >>> a = torch.tensor([[True, True, False]])
    >>> overlap_of_pairs(a, a), overlap_of_pairs(a, a.roll(1, 1))
    (tensor([1.], dtype=torch.float64), tensor([0.3333], dtype=torch.float64))

    """
    return (a & b).sum(-1).double() / (a | b).sum(-1)


def pairs_alike(task: np.ndarray, run: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Pairs of members ``(P, 2)`` of two runs of one task with like results, each in one pair at most.

    In each task the two that are nearest to one another come first, then the nearest two of the rest.

    Args:
        task: of each member ``(N,)``.
        run: of each ``(N,)``.
        result: R of each ``(N,)``.

    >>> task, run = np.array([0, 0, 0, 0, 1]), np.array([4, 4, 5, 6, 7])
    >>> pairs_alike(task, run, np.array([0.5, 0.8, 0.9, 0.6, 0.9]))  # 0 and 1 are of one run
    array([[0, 3],
           [1, 2]])

    """
    out = []
    for t in np.unique(task):
        rows = np.flatnonzero(task == t)
        i, j = np.triu_indices(len(rows), 1)
        first, second = rows[i], rows[j]
        other = run[first] != run[second]
        first, second = first[other], second[other]
        used: set[int] = set()
        for k in np.abs(result[first] - result[second]).argsort(kind="stable"):
            pair = (int(first[k]), int(second[k]))
            if used.isdisjoint(pair):
                used.update(pair)
                out.append(pair)
    return np.array(out, dtype=np.int64).reshape(-1, 2)


def mean_softmax(outputs: Tensor, size: int) -> Tensor:
    """Predictions ``(T, B, c)`` of ensembles of networks that are side by side: ``(T * size, B, c)``.

    >>> mean_softmax(torch.tensor([[[30.0, 0.0]], [[0.0, 30.0]]]), 2)  # they do not agree
    tensor([[[0.5000, 0.5000]]])
    """
    mean: Tensor = outputs.softmax(-1).unflatten(0, (-1, size)).mean(1)
    return mean


def auc(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: probability that a positive scores higher than a negative.

    Args:
        score: ``(N,)``; equal scores count half.
        positive: bool ``(N,)``.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875

    """
    from scipy.stats import rankdata  # slow to import, and commands that draw need none of it

    n = int(positive.sum())
    pairs = n * (len(score) - n)
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / pairs) if pairs else np.nan


def prefixed(name: str, metrics: dict[str, float]) -> dict[str, float]:
    """Metrics under the name of what they are of.

    >>> prefixed("hypernetwork", {"mae": 0.02})
    {'hypernetwork_mae': 0.02}
    """
    return {f"{name}_{key}": value for key, value in metrics.items()}


def with_interval(
    name: str,
    statistic: Callable[[np.ndarray], float],
    units: int | np.ndarray,
    resamples: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Bounds ``<name>_low`` and ``<name>_high`` of a statistic, by :func:`bootstrap`.

    Args:
        name: of the metric.
        statistic: value for an index array of units, with repetitions.
        units: how many units there are, or the cluster of each ``(U,)``.
        resamples: how often they are drawn; 0 gives no bounds.
        rng: random stream.

    >>> with_interval("mean", lambda index: 1.0, 5, 20, np.random.default_rng(0))
    {'mean_low': 1.0, 'mean_high': 1.0}

    """
    if not resamples:
        return {}
    low, high = bootstrap(statistic, units, resamples, rng)
    return {f"{name}_low": low, f"{name}_high": high}


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    units: int | np.ndarray,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic under resampling of units, or of clusters of them.

    Orders of one class set are no independent tasks: class sets are drawn, each with all its tasks.

    Args:
        statistic: value for an index array of units, with repetitions.
        units: how many units there are, or the cluster of each ``(U,)``: a cluster is drawn as a whole.
        resamples: how often units or clusters are drawn.
        rng: random stream.

    Returns:
        The 2.5 and the 97.5 % quantile; NaN where there are not two units or clusters.

    Source: Efron (1979), Bootstrap methods; Davison, Hinkley (1997), section 3.8, of clusters.

    >>> x = np.random.default_rng(0).normal(size=400)
    >>> def width(x, units):
    ...     statistic = lambda index: x[index].mean()
    ...     low, high = bootstrap(statistic, units, 500, np.random.default_rng(1))
    ...     return bool(low < x.mean() < high), round((high - low) / (2 * 1.96 / 20), 1)
    >>> width(x, 400)  # the normal interval
    (True, 1.0)
    >>> copies = x.repeat(6)  # say no more, where clusters are drawn
    >>> width(copies, np.arange(400).repeat(6)), width(copies, 2400)
    ((True, 1.0), (True, 0.4))

    """
    clusters = (
        np.arange(units) if isinstance(units, int) else np.unique(units, return_inverse=True)[1]
    )
    rows = np.split(np.argsort(clusters, kind="stable"), np.cumsum(np.bincount(clusters))[:-1])
    if len(rows) < 2:
        return np.nan, np.nan
    values = [
        statistic(np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]))
        for _ in range(resamples)
    ]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def recall_at(similarity: Tensor, queries: Tensor, items: Tensor, k: int) -> tuple[float, float]:
    """Fraction of queries with an item of the same label among the k most similar, and its chance.

    Args:
        similarity: ``(Q, M)``.
        queries: label of each query ``(Q,)``.
        items: label of each item ``(M,)``.
        k: how many items are retrieved.

    Returns:
        Recall, and the recall of k items drawn at random without replacement.

    >>> labels = torch.arange(4)
    >>> recall_at(torch.eye(4), labels, labels, 1)
    (1.0, 0.25)
    >>> recall_at(-torch.eye(4), labels, labels, 3)  # of four items the right one comes last
    (0.0, 0.75)

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
