"""Train on the task and stop at the requested result: what a draw saves, and how near training comes.

After some steps the result on the train images of the task is measured. Training stops where it first
reaches the target, or at its end; the network of all measured so far is taken that is nearest to the
target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.evaluate.finetuning import SCRATCH_EPOCHS, Trainer
from weightspace.evaluate.tuning import Outcome
from weightspace.sampling.requests import Grid
from weightspace.weights.lazy import Made, Selected
from weightspace.weights.spec import (
    BLOCK,
    Networks,
    Population,
    Weights,
    block_size,
    count,
    fill_blocks,
    take,
)
from weightspace.zoo.result import Result

EPOCHS = (2, SCRATCH_EPOCHS)  # after which a training ends that has not reached its target
CHECKS = 48  # measurements of one training at most, its start besides
Start = Callable[[Grid], Population]  # networks that training starts at, for a grid of requests


def check_steps(last: int) -> tuple[int, ...]:
    """Steps after which a training is measured: close at first, where the result moves fast.

    >>> check_steps(8), len(check_steps(192)), check_steps(192)[:10]
    ((1, 2, 3, 4, 5, 6, 7, 8), 48, (1, 2, 4, 5, 6, 7, 9, 10, 11, 12))
    """
    steps = np.unique(np.geomspace(1, last, 2 * CHECKS).round().astype(int))
    some = np.linspace(0, len(steps) - 1, min(CHECKS, len(steps))).round().astype(int)
    return tuple(steps[some].tolist())


def stop(
    results: np.ndarray, target: np.ndarray, *, higher_is_better: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Which measurement each training takes ``(M,)``, and at which one it stops ``(M,)``.

    Args:
        results: of M trainings, measured S times ``(M, S)``; not a number where one diverged.
        target: where to stop ``(M,)``.
        higher_is_better: the result rises in training; otherwise it falls.

    >>> rising = np.array([[0.3, 0.5, 0.75, 0.8], [0.3, 0.5, 0.75, 0.8]])
    >>> stop(rising, np.array([0.6, 0.9]), higher_is_better=True)
    (array([1, 3]), array([2, 3]))

    """
    target = target[:, None]
    reached = results >= target if higher_is_better else results <= target
    last = np.where(reached.any(1), reached.argmax(1), results.shape[1] - 1)
    seen = np.arange(results.shape[1]) <= last[:, None]
    distance = np.abs(np.nan_to_num(results, nan=np.inf) - target)
    return np.where(seen, distance, np.inf).argmin(1), last


def measurements(first: Weights, later: Weights, size: int) -> Made:
    """Networks of M trainings ``(M * S)`` at each of S measurements, those of a training side by side.

    They are put together where they are run: a copy of all would double what a training holds.

    Args:
        first: where the trainings start ``(M, *shape)``.
        later: after some of their steps ``(M, S - 1, *shape)``.
        size: S.

    >>> networks = measurements({"a": torch.tensor([1, 4])}, {"a": torch.tensor([[2, 3], [5, 6]])}, 3)
    >>> networks.take(slice(None)), networks.take(torch.tensor([3, 2]))
    ({'a': tensor([1, 2, 3, 4, 5, 6])}, {'a': tensor([4, 3])})

    """

    def make(rows: Tensor) -> Weights:
        training, index = rows // size, rows % size
        start = index == 0
        out = take(later, (training, (index - 1).clamp_min(0)))
        for name, w in out.items():
            w[start] = first[name][training[start]]
        return out

    return Made(count(first) * size, make)


@dataclass(frozen=True)
class TrainAndStop:
    """Trains networks side by side, and stops each where it reaches its target.

    Most stop early. Those that do not are trained again by the same steps, and longer.

    Attributes:
        trainer: trains on train images.
        result: what R is.
        start: networks to start at, one for each request, or one for each task, whose requests then
            share a training.

    """

    trainer: Trainer
    result: Result
    start: Start

    def __call__(self, grid: Grid, rate: float, part: str) -> Outcome:
        """Results on a part of the images, and labelled images of the steps until the stop.

        Args:
            grid: the requests.
            rate: learning rate of Adam.
            part: images that the networks are measured on, "val" or "test".

        """
        start = self.start(grid)
        tasks = np.repeat(grid.tasks, count(start) // len(grid.tasks))
        targets = grid.target.reshape(len(tasks), -1)
        achieved, steps = np.empty(targets.shape), np.empty(targets.shape)
        waiting = np.arange(len(tasks))
        for epochs in EPOCHS:
            some = Selected(start, torch.from_numpy(waiting))
            out = self._train(some, tasks[waiting], targets[waiting], rate, epochs, part)
            achieved[waiting], steps[waiting] = out.unbind(2)
            waiting = waiting[(steps[waiting] >= epochs * self.trainer.per_epoch).any(1)]
        return Outcome(achieved.ravel(), steps.ravel() * self.trainer.batch_size)

    def _train(
        self,
        start: Population,
        tasks: np.ndarray,
        targets: np.ndarray,
        rate: float,
        epochs: int,
        part: str,
    ) -> Tensor:
        """Result of each request, and the step at which its training stops ``(M, k, 2)``.

        Args:
            start: M networks.
            tasks: task of each ``(M,)``.
            targets: of its requests ``(M, k)``.
            rate: learning rate of Adam.
            epochs: after which a training ends.
            part: images that the networks are measured on at the end.

        """
        steps = (0, *check_steps(epochs * self.trainer.per_epoch))

        def compute(rows: slice) -> Tensor:
            first = take(start, rows)
            later = self.trainer.trajectory(tasks[rows], first, rate, steps[1:])
            networks = measurements(first, later, len(steps))
            achieved, last = self._stopped(networks, tasks[rows], targets[rows], part)
            return torch.stack([achieved, torch.tensor(steps)[last]], 1).reshape(-1, k, 2)

        spec, k = self.trainer.runner.net.spec, targets.shape[1]
        room = torch.empty(*targets.shape, 2, dtype=torch.float64)
        return fill_blocks(room, block_size(spec, BLOCK, len(steps) * spec.numel), compute)

    def _stopped(
        self, networks: Networks, tasks: np.ndarray, targets: np.ndarray, part: str
    ) -> tuple[Tensor, Tensor]:
        """Result of each request, and the measurement that its training stops at, ``(M * k,)`` each.

        Args:
            networks: of M trainings, those of one at its S measurements side by side ``(M * S)``.
            tasks: task of each training ``(M,)``.
            targets: of its requests ``(M, k)``.
            part: images that the networks are measured on at the end.

        """
        runner, (trainings, requests) = self.trainer.runner, targets.shape
        on_train = self.result.of(runner.outputs_by_task(networks, tasks, "train"))
        index, last = stop(
            on_train.reshape(trainings, -1).numpy().repeat(requests, 0),
            targets.ravel(),
            higher_is_better=self.result.higher_is_better,
        )
        training = np.arange(trainings).repeat(requests)
        chosen = Selected(
            networks, torch.from_numpy(training * (count(networks) // trainings) + index)
        )
        achieved = self.result.of(runner.outputs_by_task(chosen, tasks, part))
        return achieved, torch.from_numpy(last)
