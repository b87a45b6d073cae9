"""A grid of tasks and targets, and what networks drawn for it achieve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from weightspace.data.dataset import Dataset
from weightspace.nets.base import Net
from weightspace.weights.spec import Weights
from weightspace.zoo.result import accuracies, losses
from weightspace.zoo.runner import outputs_by_task


@dataclass(frozen=True)
class Grid:
    """Every task of a split with every target: ``T x K`` conditions, task after task."""

    tasks: np.ndarray
    targets: np.ndarray

    @property
    def task(self) -> Tensor:
        """Task of each condition ``(T * K,)``."""
        return torch.from_numpy(np.repeat(self.tasks, len(self.targets)))

    @property
    def asked(self) -> np.ndarray:
        """Requested result of each condition ``(T * K,)``."""
        return np.tile(self.targets, len(self.tasks))

    def by_task(self, values: np.ndarray) -> np.ndarray:
        """Per-condition values as ``(T, K)``."""
        return values.reshape(len(self.tasks), len(self.targets))


@dataclass(frozen=True)
class Judge:
    """Measures the result of networks, all the draws of a condition on the images of its task."""

    net: Net
    dataset: Dataset
    result: Literal["accuracy", "loss"]

    def __call__(self, grid: Grid, weights: Weights, part: str) -> np.ndarray:
        """Results ``(T * K, draws)`` of weights ``(T * K * draws, *shape)``."""
        return self.results(
            grid, outputs_by_task(self.net, self.dataset, grid.tasks, weights, part)
        )

    def results(self, grid: Grid, outputs: Tensor) -> np.ndarray:
        """Results ``(T * K, draws)`` of outputs ``(T * K * draws, B, c)``."""
        score = accuracies if self.result == "accuracy" else losses
        return score(outputs).numpy().reshape(len(grid.asked), -1)
