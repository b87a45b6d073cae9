"""What k components per tensor keep: explained variance, and agreement of the truncated networks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.evaluate.metrics import agreement, cosine
from weightspace.weights.pca import TensorPca
from weightspace.weights.spec import BLOCK, Weights, block_size, block_slices, take
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

MEMBERS = 300  # val members are enough for a curve


def against_k(pca: TensorPca, zoo: Zoo, runner: TaskRunner, members: pd.DataFrame) -> pd.DataFrame:
    """Curve over k = 1, 2, 4, ... up to all: columns ``k``, ``explained_variance``, ``agreement``, ``cosine``.

    Measured on val members and val images: k is a choice. Members are read block by block.

    Args:
        pca: fitted.
        zoo: the population.
        runner: the tasks.
        members: table of val members, of which the first 300 are measured.

    """
    members, most = members.iloc[:MEMBERS], max(pca.sizes)
    ks = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    networks, tasks = zoo.networks(members), members["task"].to_numpy()
    scores = torch.empty(len(ks), 2, len(members), dtype=torch.float64)
    for rows in block_slices(len(members), block_size(zoo.spec, BLOCK)):
        scores[..., rows] = _scores(pca, runner, take(networks, rows), tasks[rows], ks)
    means = scores.mean(2).tolist()
    return pd.DataFrame(
        {"k": k, "explained_variance": pca.explained(k), "agreement": a, "cosine": c}
        for k, (a, c) in zip(ks, means, strict=True)
    )


def _scores(
    pca: TensorPca, runner: TaskRunner, weights: Weights, tasks: np.ndarray, ks: list[int]
) -> Tensor:
    """Agreement and cosine of M members with their truncations, ``(len(ks), 2, M)``.

    Args:
        pca: fitted.
        runner: the tasks.
        weights: tensors ``(M, *shape)``.
        tasks: task of each ``(M,)``.
        ks: counts of components.

    """
    original, coefficients = runner.outputs(weights, tasks, "val"), pca(weights)
    rows = []
    for k in ks:
        outputs = runner.outputs(pca.inverse(coefficients, k), tasks, "val")
        rows.append(torch.stack([agreement(original, outputs), cosine(original, outputs)]))
    return torch.stack(rows)
