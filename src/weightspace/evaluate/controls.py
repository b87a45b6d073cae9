"""Networks made without sampling, which sampled ones are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.sampling.requests import nearest_to
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.weights.matching import align
from weightspace.weights.spec import Spec, Weights, take
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo


@dataclass(frozen=True)
class TrainMembers:
    """Train members that are measured in place of sampled networks.

    Attributes:
        members: their table.
        weights: ``(N, *shape)``.
        result: R of every member ``(N,)``, accuracy or loss in nats.
        embedding: dataset embedding of every member's task ``(N, E)``.

    """

    members: pd.DataFrame
    weights: Weights
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
        result = runner.results_of(members, sampler.shared_encoder.result)
        tasks = torch.tensor(members["task"].to_numpy())
        embedding = sampler.embed(
            Condition.of_tasks(runner.dataset, tasks, torch.from_numpy(result))
        )
        return cls(members, zoo.weights(members), result, embedding)

    def nearest_task(
        self, embedding: Tensor, target: np.ndarray, rank: int = 0
    ) -> tuple[Weights, np.ndarray]:
        """For each condition: the member of the nearest training task whose result is nearest.

        Args:
            embedding: dataset embeddings of the conditions ``(C, E)``.
            target: requested results ``(C,)``.
            rank: 0 for the nearest task, 1 for the second nearest, and so on.

        Returns:
            Weights ``(C, *shape)`` and the chosen rows ``(C,)``.

        """
        tasks, first = np.unique(self.members["task"], return_index=True)
        distance = torch.cdist(embedding.double(), self.embedding[first].double())
        nearest = tasks[distance.argsort(1)[:, rank].numpy()]
        trained_on = self.members["task"].to_numpy()
        rows = np.array(
            [
                np.flatnonzero(trained_on == task)[nearest_to(self.result[trained_on == task], r)]
                for task, r in zip(nearest, target, strict=True)
            ]
        )
        return take(self.weights, torch.from_numpy(rows)), rows

    def average(self, target: np.ndarray, count: int = 16) -> Weights:
        """Average of the members whose results are nearest to each target, whatever their tasks.

        Args:
            target: requested results ``(C,)``.
            count: members averaged.

        Returns:
            Weights ``(C, *shape)``.

        >>> weights = {"w": torch.tensor([[1.0], [2.0], [9.0]])}
        >>> members = TrainMembers(pd.DataFrame(), weights, np.array([0.5, 0.6, 0.9]), torch.eye(3))
        >>> members.average(np.array([0.55]), count=2)["w"]
        tensor([[1.5000]])

        """
        order = np.abs(self.result[None, :] - target[:, None]).argsort(1, kind="stable")[:, :count]
        index = torch.from_numpy(order)
        return {name: w[index].mean(1) for name, w in self.weights.items()}


def noised(spec: Spec, weights: Weights, fraction: float, rng: torch.Generator) -> Weights:
    """Add normal noise of a fraction of each tensor's standard deviation over the batch.

    Args:
        spec: the architecture.
        weights: networks ``(N, *shape)``.
        fraction: of the standard deviation, 0 or more.
        rng: random stream of the noise.

    """
    out = {}
    for name, w in spec.unconstrain(weights).items():
        noise = torch.randn(w.shape, generator=rng)
        out[name] = w + fraction * w.std() * noise
    return spec.constrain(out)


def head_only(spec: Spec, weights: Weights) -> Weights:
    """Networks with the output layer of each on the average of all backbones.

    Args:
        spec: the architecture; says which tensors are the head.
        weights: networks ``(N, *shape)``.

    """
    return {
        name: w if name in spec.head else w.mean(0, keepdim=True).expand_as(w)
        for name, w in weights.items()
    }


def at_distance(
    spec: Spec, weights: Weights, distance: np.ndarray, rng: torch.Generator
) -> Weights:
    """Networks with noise, each moved by a distance relative to its norm.

    Buffers stay as they are: noise would make variances negative.

    Args:
        spec: the architecture.
        weights: networks ``(N, *shape)``.
        distance: of every network, relative to its norm ``(N,)``, 0 or more.
        rng: random stream of the noise.

    """
    learned = spec.parameters
    flat, norm = learned.flatten(weights), spec.flatten(weights).norm(dim=1, keepdim=True)
    noise = torch.randn(flat.shape, generator=rng)
    step = torch.tensor(distance, dtype=flat.dtype)[:, None] * norm
    return weights | learned.unflatten(flat + step * noise / noise.norm(dim=1, keepdim=True))


def midpoints(spec: Spec, a: Weights, b: Weights) -> Weights:
    """Average of pairs of networks after alignment of the second to the first.

    Args:
        spec: the architecture.
        a: networks ``(N, *shape)``.
        b: partner of each ``(N, *shape)``.

    """
    out = []
    for i in range(len(next(iter(a.values())))):
        one = take(a, slice(i, i + 1))
        other = align(spec, one, take(b, slice(i, i + 1)))
        out.append({k: (w + other[k]) / 2 for k, w in one.items()})
    return {k: torch.cat([o[k] for o in out]) for k in out[0]}
