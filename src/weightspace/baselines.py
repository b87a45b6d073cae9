"""What the latent must beat: weight statistics, raw weights, and networks made without sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.data.dataset import Dataset
from weightspace.shared.base import SharedModel, results_of
from weightspace.spec import Spec, Weights, take
from weightspace.zoo.store import Zoo

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def weight_statistics(spec: Spec, weights: Weights) -> Tensor:
    """Mean, variance and quantiles of each tensor: ``(N, 7 * tensors)``.

    Source: Unterthiner et al. (2020), Predicting neural network accuracy from weights,
    arXiv 2002.11448, section 3.
    """
    parts = []
    for name in spec.names:
        flat = weights[name].flatten(1).double()
        quantiles = flat.quantile(torch.tensor(QUANTILES, dtype=flat.dtype), dim=1).T
        moments = torch.stack([flat.mean(1), flat.var(1, correction=0)], 1)
        parts.append(torch.cat([moments, quantiles], 1))
    return torch.cat(parts, 1).float()


@dataclass(frozen=True)
class Donors:
    """Train members that stand in for sampled networks.

    Attributes:
        members: their table.
        weights: ``(N, *shape)``.
        result: R of each ``(N,)``.
        embedding: dataset embedding of each member's task ``(N, E)``.

    """

    members: pd.DataFrame
    weights: Weights
    result: np.ndarray
    embedding: Tensor

    @classmethod
    def of(cls, zoo: Zoo, shared: SharedModel, dataset: Dataset) -> Donors:
        """All train members of a zoo."""
        members = zoo.select("train")
        with torch.no_grad():
            embedding = shared.embed(dataset, torch.tensor(members["task"].to_numpy()))
        result = results_of(members, dataset, shared.settings.result)
        return cls(members, zoo.weights(members), result, embedding)

    def nearest_task(
        self, embedding: Tensor, asked: np.ndarray, rank: int = 0
    ) -> tuple[Weights, np.ndarray]:
        """For each condition: the member of the nearest training task whose result is nearest.

        Args:
            embedding: dataset embeddings of the conditions ``(C, E)``.
            asked: requested results ``(C,)``.
            rank: 0 for the nearest task, 1 for the second nearest, and so on.

        Returns:
            Weights ``(C, *shape)`` and the chosen rows ``(C,)``.

        """
        tasks, first = np.unique(self.members["task"], return_index=True)
        distance = torch.cdist(embedding.double(), self.embedding[first].double())
        nearest = tasks[distance.argsort(1)[:, rank].numpy()]
        own = self.members["task"].to_numpy()
        rows = np.array(
            [
                np.flatnonzero(own == task)[np.abs(self.result[own == task] - r).argmin()]
                for task, r in zip(nearest, asked, strict=True)
            ]
        )
        return take(self.weights, torch.from_numpy(rows)), rows

    def average(self, asked: np.ndarray, count: int = 16) -> Weights:
        """Average of the ``count`` members whose results are nearest to each request."""
        order = np.abs(self.result[None, :] - asked[:, None]).argsort(1, kind="stable")[:, :count]
        index = torch.from_numpy(order)
        return {name: w[index].mean(1) for name, w in self.weights.items()}


def noised(spec: Spec, weights: Weights, share: float, generator: torch.Generator) -> Weights:
    """Add normal noise with ``share`` of each tensor's spread over the batch."""
    out = {}
    for name, w in spec.unconstrain(weights).items():
        noise = torch.randn(w.shape, generator=generator)
        out[name] = w + share * w.std() * noise
    return spec.constrain(out)


def head_only(spec: Spec, weights: Weights) -> Weights:
    """Keep each network's output layer, put it on the average of all their backbones."""
    return {
        name: w if name in spec.head else w.mean(0, keepdim=True).expand_as(w)
        for name, w in weights.items()
    }
