"""Run networks on the images of tasks: the one way from weights to outputs and results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.artifacts import DATASET_FOLDER
from weightspace.data.dataset import PARTS, Dataset
from weightspace.nets.base import Net, net_for
from weightspace.params import Params
from weightspace.rng import normal, torch_stream
from weightspace.runtime import device
from weightspace.weights.spec import (
    BLOCK,
    Population,
    block_size,
    block_slices,
    count,
    fill_blocks,
    fill_together,
    take,
    to_device,
)
from weightspace.zoo.result import accuracies, losses


@dataclass(frozen=True)
class TaskRunner:
    """Networks of one architecture on the tasks of one dataset.

    Attributes:
        net: the architecture.
        dataset: images and tasks.

    """

    net: Net
    dataset: Dataset

    @property
    def classes(self) -> int:
        """Classes of a task."""
        return self.dataset.classes_per_task

    @property
    def device(self) -> torch.device:
        """Where networks run; outputs and results come back to the CPU."""
        return self.dataset.device

    def outputs(self, weights: Population, tasks: np.ndarray, part: str) -> Tensor:
        """Outputs ``(M, B, c)`` of M networks, each on one part of the images of its task.

        Args:
            weights: tensors ``(M, *shape)``.
            tasks: task of each ``(M,)``.
            part: "train", "val" or "test".

        """

        def compute(rows: slice) -> Tensor:
            images, _ = self.dataset.task_batch(torch.tensor(tasks[rows]), part)
            return self.net.run(take(weights, rows), images)

        of_task = self.dataset.images[part][0].numel() * self.classes
        return fill_blocks(self.room(len(tasks), part), self._block(BLOCK, of_task), compute)

    def outputs_by_task(self, weights: Population, tasks: np.ndarray, part: str) -> Tensor:
        """Outputs ``(T * n, B, c)`` of n networks per task, those of a task side by side.

        Args:
            weights: tensors ``(T * n, *shape)``.
            tasks: T tasks.
            part: "train", "val" or "test".

        """
        return self.outputs_on_parts(weights, tasks, (part,))[0]

    def outputs_on_parts(
        self, weights: Population, tasks: np.ndarray, parts: Sequence[str]
    ) -> tuple[Tensor, ...]:
        """As :meth:`outputs_by_task`, on several parts: each network is read or made once.

        Networks of one task see the same images, which makes the first layer one wide product.

        Args:
            weights: tensors ``(T * n, *shape)``.
            tasks: T tasks.
            parts: "train", "val", "test".

        """
        of_task = count(weights) // len(tasks)
        rooms = tuple(self.room(count(weights), part) for part in parts)
        for i, task in enumerate(torch.tensor(tasks)[:, None]):
            images = [self.dataset.task_batch(task, part)[0][0] for part in parts]
            for block in block_slices(of_task, self._block(of_task)):
                rows = slice(i * of_task + block.start, i * of_task + block.stop)
                networks = take(weights, rows)
                for room, x in zip(rooms, images, strict=True):
                    room[rows] = self.net.run(networks, x)
        return rooms

    def random_outputs(self, weights: Population, inputs: int, seed: int) -> Tensor:
        """Outputs ``(M, inputs, c)`` on standard normal images, the same for all networks.

        Args:
            weights: tensors ``(M, *shape)``.
            inputs: images.
            seed: root seed.

        """
        rng = torch_stream(seed, "evaluate", "random")
        return self.on_images(weights, normal((inputs, *self.dataset.shape), rng, self.device))

    def on_images(self, weights: Population, images: Tensor) -> Tensor:
        """Outputs ``(M, B, c)`` of M networks on the same images ``(B, C, H, W)``."""
        room = torch.empty(count(weights), len(images), self.classes)
        return fill_blocks(
            room, self._block(BLOCK), lambda rows: self.net.run(take(weights, rows), images)
        )

    def measure(
        self, weights: Population, tasks: np.ndarray, parts: Sequence[str] = PARTS
    ) -> pd.DataFrame:
        """Loss (nats) and accuracy of M networks on parts of their tasks, a row each, in float32.

        Args:
            weights: tensors ``(M, *shape)``.
            tasks: task of each ``(M,)``.
            parts: parts of the images; columns ``<part>_loss`` and ``<part>_accuracy``.

        """
        rooms = [self.room(len(tasks), part) for part in parts]

        def compute(rows: slice) -> list[Tensor]:
            networks = to_device(take(weights, rows), self.device)  # once for all parts
            return [self.outputs(networks, tasks[rows], part) for part in parts]

        fill_together(rooms, self._block(BLOCK, max(room[0].numel() for room in rooms)), compute)
        table = {}
        for part, outputs in zip(parts, rooms, strict=True):
            table[f"{part}_loss"] = losses(outputs).float().numpy()
            table[f"{part}_accuracy"] = accuracies(outputs).float().numpy()
        return pd.DataFrame(table)

    def losses_on_all_tasks(self, weights: Population, tasks: Tensor) -> Tensor:
        """Cross entropy ``(N, T)`` of N networks on the train images of each of T tasks."""
        of_task = self.dataset.classes[tasks]  # (T, c)
        classes, column = of_task.unique(return_inverse=True)
        images = self.dataset.images["train"][classes]  # (K, n, C, H, W)
        width = of_task.shape[1]

        def compute(rows: slice) -> Tensor:
            outputs = self.net.run(take(weights, rows), images.flatten(0, 1))
            log_p = outputs.log_softmax(-1)
            per_class = log_p.reshape(len(log_p), *images.shape[:2], width).mean(2)  # (N, K, c)
            return -per_class[:, column, torch.arange(width)].mean(2)

        room = torch.empty(count(weights), len(tasks))
        return fill_blocks(room, self._block(BLOCK), compute)

    def _block(self, most: int, more: int = 0) -> int:
        """Networks that are worked on at once: see :func:`weightspace.weights.spec.block_size`."""
        return block_size(self.net.spec, most, more)

    def room(self, count: int, part: str) -> Tensor:
        """Room for the outputs ``(count, B, c)``."""
        return torch.empty(count, self.dataset.images[part].shape[1] * self.classes, self.classes)


def load_runner(data: Path, params: Params) -> TaskRunner:
    """Architecture and tasks of the dataset that the stages left in ``data``, on ``runtime.device``."""
    dataset = Dataset.load(data / DATASET_FOLDER).to(device(params.runtime))
    net = net_for(params, dataset.shape, dataset.classes_per_task)
    return TaskRunner(net, dataset)
