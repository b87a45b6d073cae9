"""Slow oracles: the same results as the package, by loops and by other libraries."""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F


def nt_xent(a, b, temperature, groups=None):
    """NT-Xent of N pairs by a triple loop: rows, other rows, features."""
    rows = [r.tolist() for r in (*a, *b)]
    n, total = len(a), 0.0
    for i, row in enumerate(rows):
        partner, terms = (i + n) % (2 * n), {}
        for j, other in enumerate(rows):
            same = groups is not None and groups[i % n] == groups[j % n]
            if j != i and (j == partner or not same):
                terms[j] = math.exp(_cosine(row, other) / temperature)
        total -= math.log(terms[partner] / sum(terms.values()))
    return total / (2 * n)


def _cosine(x, y):
    dot = xx = yy = 0.0
    for u, v in zip(x, y, strict=True):
        dot, xx, yy = dot + u * v, xx + u * u, yy + v * v
    return dot / math.sqrt(xx * yy) if xx * yy > 0 else 0.0


def train_one(net, run, init, images, labels, batches, momentum):
    """Snapshots of one run, trained alone with torch.optim: list of state dicts."""
    module = copy.deepcopy(net.module).double().requires_grad_(True).train()
    module.load_state_dict(init)
    kind = {
        "adam": lambda p: torch.optim.Adam(p, run.lr, weight_decay=run.weight_decay),
        "sgd": lambda p: torch.optim.SGD(
            p, run.lr, momentum=momentum, weight_decay=run.weight_decay
        ),
    }
    optimizer = kind[run.optimizer](list(module.parameters()))
    kept = []
    for step in range(1, run.steps[-1] + 1):
        batch = batches[step - 1]
        optimizer.zero_grad()
        F.cross_entropy(module(images[batch]), labels[batch]).backward()
        optimizer.step()
        if step in run.steps:
            kept.append(copy.deepcopy(module.state_dict()))
    return kept


def accuracy_one(net, weights, images, labels):
    """Accuracy of one network, loaded strictly into its module."""
    module = copy.deepcopy(net.module).eval()
    module.load_state_dict(weights)
    with torch.no_grad():
        return float((module(images).argmax(1) == labels).double().mean())


def principal(x, k):
    """First k principal directions ``(k, d)`` and variances, by SVD of the centred rows."""
    x = np.asarray(x, np.float64)
    _, singular, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return rows[:k], singular[:k] ** 2 / (len(x) - 1)


def cosine(a, b):
    """Mean over samples of the cosine over outputs, one member after the other."""
    return [np.mean([_cosine(x, y) for x, y in zip(u, v, strict=True)]) for u, v in _pairs(a, b)]


def correlation(a, b):
    """Mean over outputs of the Pearson correlation over samples."""
    out = []
    for u, v in _pairs(a, b):
        values = []
        for c in range(len(u[0])):
            x, y = [r[c] for r in u], [r[c] for r in v]
            mx, my = sum(x) / len(x), sum(y) / len(y)
            values.append(_cosine([i - mx for i in x], [i - my for i in y]))
        out.append(np.mean(values))
    return out


def agreement(a, b):
    """Share of samples with the same largest output."""
    return [
        np.mean([x.index(max(x)) == y.index(max(y)) for x, y in zip(u, v, strict=True)])
        for u, v in _pairs(a, b)
    ]


def _pairs(a, b):
    return zip(a.tolist(), b.tolist(), strict=True)
