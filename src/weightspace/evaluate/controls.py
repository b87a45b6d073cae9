"""Networks made without sampling, which sampled ones are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.nets.base import Net
from weightspace.sampling.requests import nearest_to
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.weights.lazy import (
    Made,
    Selected,
    draw_seeds,
    mean_network,
    seeded,
    standard_deviations,
)
from weightspace.weights.matching import align
from weightspace.weights.spec import (
    Networks,
    Population,
    Spec,
    Weights,
    block_slices,
    count,
    stack,
    take,
)
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo


@dataclass(frozen=True)
class TrainMembers:
    """Train members that are measured in place of sampled networks.

    Attributes:
        members: their table.
        networks: N of them, read where they are used.
        result: R of every member ``(N,)``, accuracy or loss in nats.
        embedding: dataset embedding of every member's task ``(N, E)``.

    """

    members: pd.DataFrame
    networks: Population
    result: np.ndarray
    embedding: Tensor

    @classmethod
    def of(cls, zoo: Zoo, sampler: Sampler, runner: TaskRunner) -> TrainMembers:
        """All train members of a zoo, their tasks embedded as the sampler does.

        Args:
            zoo: the population.
            sampler: embeds tasks.
            runner: the tasks.

        """
        members = zoo.select("train")
        result = sampler.shared_encoder.result.of_members(members)
        tasks = torch.tensor(members["task"].to_numpy())
        embedding = sampler.embed(
            Condition.of_tasks(runner.dataset, tasks, torch.from_numpy(result))
        )
        return cls(members, zoo.networks(members), result, embedding)

    def nearest_task(self, embedding: Tensor, target: np.ndarray, rank: int = 0) -> Selected:
        """For each condition: the member of the nearest training task whose result is nearest.

        Args:
            embedding: dataset embeddings of the conditions ``(C, E)``.
            target: requested results ``(C,)``.
            rank: 0 for the nearest task, 1 for the second nearest, and so on.

        """
        tasks, first = np.unique(self.members["task"], return_index=True)
        distance = torch.cdist(embedding.cpu().double(), self.embedding[first].cpu().double())
        nearest = tasks[distance.argsort(1)[:, rank].numpy()]
        trained_on = self.members["task"].to_numpy()
        rows = [
            np.flatnonzero(trained_on == task)[nearest_to(self.result[trained_on == task], r)]
            for task, r in zip(nearest, target, strict=True)
        ]
        return Selected(self.networks, torch.tensor(np.array(rows)))

    def average(self, spec: Spec, target: np.ndarray, most: int = 16) -> Selected:
        """Average of the members whose results are nearest to each target, whatever their tasks.

        One network is in memory for each target that differs from the others.

        Args:
            spec: the architecture.
            target: requested results ``(C,)``.
            most: members averaged.

        >>> from weightspace.weights.spec import TensorSpec
        >>> spec = Spec("example", (TensorSpec("w", (1,), "parameter", (None,)),))
        >>> networks = {"w": torch.tensor([[1.0], [2.0], [9.0]])}
        >>> members = TrainMembers(pd.DataFrame(), networks, np.array([0.5, 0.6, 0.9]), torch.eye(3))
        >>> members.average(spec, np.array([0.55]), most=2).take(slice(None))["w"]
        tensor([[1.5000]])

        """
        targets, of_condition = np.unique(target, return_inverse=True)
        order = np.abs(self.result[None, :] - targets[:, None]).argsort(1, kind="stable")[:, :most]
        means = [
            mean_network(spec, Selected(self.networks, rows)) for rows in torch.from_numpy(order)
        ]
        return Selected(
            {k: torch.cat([m[k] for m in means]) for k in spec.names},
            torch.from_numpy(of_condition),
        )


def noised(spec: Spec, networks: Population, fraction: float, rng: torch.Generator) -> Networks:
    """Add normal noise of a fraction of each tensor's standard deviation over all networks.

    Args:
        spec: the architecture.
        networks: N of them.
        fraction: of the standard deviation, 0 or more.
        rng: random stream of the noise.

    """
    std, seeds = standard_deviations(spec, networks), draw_seeds(count(networks), rng)

    def make(rows: Tensor) -> Weights:
        free = spec.unconstrain(take(networks, rows))
        noise = spec.unflatten(_normal(spec, seeds[rows]).to(free[spec.names[0]].device))
        return spec.constrain({k: w + fraction * std[k] * noise[k] for k, w in free.items()})

    return Made(count(networks), make)


def head_only(spec: Spec, networks: Population) -> Networks:
    """Networks with the output layer of each on the average of all backbones.

    Args:
        spec: the architecture; says which tensors are the head.
        networks: N of them.

    """
    mean = mean_network(spec, networks)

    def make(rows: Tensor) -> Weights:
        block = take(networks, rows)
        return {k: w if k in spec.head else mean[k].to(w).expand_as(w) for k, w in block.items()}

    return Made(count(networks), make)


def at_distance(
    spec: Spec, networks: Population, distance: np.ndarray, rng: torch.Generator
) -> Networks:
    """Networks with noise, each moved by a distance relative to its norm.

    Buffers stay as they are: noise would make variances negative.

    Args:
        spec: the architecture.
        networks: N of them.
        distance: of every network, relative to its norm ``(N,)``, 0 or more.
        rng: random stream of the noise.

    """
    learned, seeds = spec.parameters, draw_seeds(count(networks), rng)
    relative = torch.tensor(distance, dtype=torch.float32)[:, None]

    def make(rows: Tensor) -> Weights:
        weights = take(networks, rows)
        flat, noise = learned.flatten(weights), _normal(learned, seeds[rows])
        step = relative[rows] / noise.norm(dim=1, keepdim=True)
        noise = (step * noise).to(flat.device) * spec.flatten(weights).norm(dim=1, keepdim=True)
        return weights | learned.unflatten(flat + noise)

    return Made(count(networks), make)


def midpoints(spec: Spec, a: Population, b: Population) -> Networks:
    """Average of pairs of networks after alignment of the second to the first.

    Args:
        spec: the architecture.
        a: N networks.
        b: partner of each.

    """

    def make(rows: Tensor) -> Weights:
        ones, partners = take(a, rows), take(b, rows)
        aligned = [
            align(spec, take(ones, row), take(partners, row)) for row in block_slices(len(rows), 1)
        ]
        return {k: (w + torch.cat([p[k] for p in aligned])) / 2 for k, w in ones.items()}

    return Made(count(a), make)


def untrained(net: Net, size: int, rng: torch.Generator) -> Networks:
    """Freshly initialised networks.

    Args:
        net: the architecture.
        size: how many.
        rng: random stream of their values.

    """
    seeds = draw_seeds(size, rng)
    return Made(size, lambda rows: stack([net.init(one) for one in seeded(seeds[rows])]))


def _normal(spec: Spec, seeds: Tensor) -> Tensor:
    """Standard normal numbers of n networks ``(n, numel)``, a seed for each."""
    return torch.stack([torch.randn(spec.numel, generator=one) for one in seeded(seeds)])
