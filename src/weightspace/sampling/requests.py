"""A grid of requests: every task of a split with every target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.data.dataset import Dataset
from weightspace.sampling.sampler import Condition
from weightspace.zoo.result import Result


@dataclass(frozen=True)
class Grid:
    """``T x K`` requests, task after task.

    Attributes:
        tasks: T tasks.
        targets: K requested results.

    >>> grid = Grid(np.array([4, 9]), np.array([0.5, 0.9]))
    >>> grid.task, grid.target
    (tensor([4, 4, 9, 9]), array([0.5, 0.9, 0.5, 0.9]))
    >>> grid.best_of(np.array([[0.4, 0.8]] * 4), np.array([[0.3, 0.7]] * 4))
    array([0.3, 0.7, 0.3, 0.7])

    """

    tasks: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.tasks) * len(self.targets)

    @property
    def task(self) -> Tensor:
        """Task of each request ``(T * K,)``."""
        return torch.from_numpy(np.repeat(self.tasks, len(self.targets)))

    @property
    def target(self) -> np.ndarray:
        """Requested result of each request ``(T * K,)``."""
        return np.tile(self.targets, len(self.tasks))

    def condition(self, dataset: Dataset) -> Condition:
        """All requests of the grid, in its order."""
        return Condition.of_tasks(
            dataset, self.task, torch.tensor(self.target, dtype=torch.float32)
        )

    def achieved(self, outputs: Tensor, result: Result) -> np.ndarray:
        """Results ``(T * K, draws)`` of the outputs ``(T * K * draws, B, c)`` of drawn networks."""
        return result.of(outputs).numpy().reshape(len(self), -1)

    def by_task(self, values: np.ndarray) -> np.ndarray:
        """Values of the requests as ``(T, K)``."""
        return values.reshape(len(self.tasks), len(self.targets))

    def best_of(self, on_train: np.ndarray, on_test: np.ndarray) -> np.ndarray:
        """Test result ``(T * K,)`` of the draw whose train result is nearest to the target.

        Args:
            on_train: results on train images ``(T * K, draws)``, which decide.
            on_test: results on test images ``(T * K, draws)``.

        """
        chosen = nearest_to(on_train, self.target[:, None])
        best: np.ndarray = on_test[np.arange(len(chosen)), chosen]
        return best


def nearest_to(results: np.ndarray, target: np.ndarray | float) -> np.ndarray:
    """Index along the last axis of the result nearest to the target: the one rule of best-of-n.

    >>> nearest_to(np.array([[0.2, 0.6], [0.9, 0.1]]), 0.5)
    array([1, 0])
    """
    return np.asarray(np.abs(results - target).argmin(-1))
