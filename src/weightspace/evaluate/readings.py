"""What predictors read: latents, statistics of the weights, the weights themselves; block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders.base import BLOCK, Autoencoder, encode_members
from weightspace.evaluate.properties import hyper_parameters
from weightspace.rng import torch_stream
from weightspace.weights.lazy import standard_deviations
from weightspace.weights.spec import (
    Population,
    Spec,
    Weights,
    block_size,
    count,
    fill_together,
    take,
)
from weightspace.zoo.store import Zoo

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the entries of a tensor
EXACT = 8192  # numbers of a network up to which each of them is a column
COLUMNS = 2048  # of the projection of more
PIECE = 1 << 20  # numbers of a tensor that are projected at once

Reading = Callable[[Weights], Tensor]  # weights (n, *shape) -> columns (n, F)


def readings(
    zoo: Zoo, autoencoder: Autoencoder, members: Mapping[str, pd.DataFrame], seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Name of the reading -> split -> matrix ``(N, F)``: the latents and what they are compared with.

    Args:
        zoo: the population.
        autoencoder: weights -> latent.
        members: split -> table.
        seed: root seed.

    """
    raw = raw_weights(zoo.spec, zoo.networks(members["train"]), seed)
    reads: dict[str, Reading] = {
        "latent": lambda weights: encode_members(autoencoder, weights),
        "raw_weights": raw,
        "weight_statistics": lambda weights: weight_statistics(zoo.spec, weights),
    }
    of_split = {s: read(zoo.spec, zoo.networks(t), reads) for s, t in members.items()}
    out = {name: {s: x[name] for s, x in of_split.items()} for name in reads}
    return out | {"hyperparameters": {s: hyper_parameters(t) for s, t in members.items()}}


def latents(
    zoo: Zoo, autoencoder: Autoencoder, members: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, np.ndarray]]:
    """As :func:`readings`, the latents alone."""
    z = {s: encode_members(autoencoder, zoo.networks(t)).cpu().numpy() for s, t in members.items()}
    return {"latent": z}


def read(spec: Spec, networks: Population, reads: Mapping[str, Reading]) -> dict[str, np.ndarray]:
    """Columns ``(N, F)`` of each reading, from one pass over N networks.

    Args:
        spec: the architecture.
        networks: N of them.
        reads: name -> reading.

    """
    first = take(networks, slice(0, 1))
    rooms = [torch.empty(count(networks), reading(first).shape[1]) for reading in reads.values()]

    def compute(rows: slice) -> list[Tensor]:
        weights = take(networks, rows)
        return [reading(weights) for reading in reads.values()]

    fill_together(rooms, block_size(spec, BLOCK), compute)
    return {name: room.numpy() for name, room in zip(reads, rooms, strict=True)}


def raw_weights(spec: Spec, train: Population, seed: int) -> Reading:
    """The numbers of a network: each a column, or where there are more than 8,192 their projection.

    Args:
        spec: the architecture.
        train: members that give each tensor its scale in a projection.
        seed: root seed.

    """
    if spec.numel <= EXACT:
        return spec.flatten
    return Projection(spec, standard_deviations(spec, train), seed)


@dataclass(frozen=True)
class Projection:
    """Random projection of networks to a few columns, 2,048 by default, which keeps inner products on average.

    Every number, in units of its tensor's standard deviation, is added with a random sign to one
    random column. Signs and columns are drawn again at each call, a piece of a tensor at a time.

    Source: Weinberger et al. (2009), Feature Hashing for Large Scale Multitask Learning,
    arXiv 0902.2206, section 2; as a projection of least squares Clarkson and Woodruff (2013), Low
    Rank Approximation and Regression in Input Sparsity Time, arXiv 1207.6365.

    Attributes:
        spec: the architecture.
        std: standard deviation of each tensor's numbers; tensors that never vary are left out.
        seed: root seed.
        columns: how many.

    """

    spec: Spec
    std: Mapping[str, float]
    seed: int
    columns: int = COLUMNS

    def __call__(self, weights: Weights) -> Tensor:
        """Columns ``(N, columns)`` of weights ``(N, *shape)``."""
        free = self.spec.unconstrain(weights)
        out = torch.zeros(len(free[self.spec.names[0]]), self.columns, dtype=torch.float64)
        for name in self.spec.names:
            if not self.std[name] > 0:
                continue
            rng = torch_stream(self.seed, "evaluate", "projection", name)
            for piece in free[name].flatten(1).split(PIECE, 1):
                column = torch.randint(self.columns, piece.shape[1:], generator=rng)
                sign = torch.randint(2, piece.shape[1:], generator=rng) * 2 - 1
                values = piece.double() * (sign / self.std[name])
                out.scatter_add_(1, column.expand_as(values), values)
        return out.float()


def weight_statistics(spec: Spec, weights: Weights) -> Tensor:
    """Mean, variance and quantiles of each tensor: ``(N, 7 * tensors)``.

    Source: Unterthiner et al. (2020), Predicting neural network accuracy from weights,
    arXiv 2002.11448, section 3.
    """
    parts = []
    for name in spec.names:
        flat = weights[name].flatten(1).double()
        moments = torch.stack([flat.mean(1), flat.var(1, correction=0)], 1)
        quantiles = np.quantile(
            flat.numpy(), QUANTILES, axis=1
        ).T  # torch's takes 16 M numbers at most
        parts.append(torch.cat([moments, torch.from_numpy(quantiles)], 1))
    return torch.cat(parts, 1).float()
