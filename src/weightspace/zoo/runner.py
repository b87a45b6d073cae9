"""Outputs of many members, each on the images of its own task or all on random inputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from weightspace.data.dataset import Dataset, task_batch
from weightspace.nets.base import Net
from weightspace.rng import torch_stream
from weightspace.weights.spec import Weights, take

BLOCK = 100  # members at once; fixed, so that results do not depend on how many there are


def real_outputs(
    net: Net, dataset: Dataset, tasks: np.ndarray, weights: Weights, part: str
) -> Tensor:
    """Outputs ``(M, B, c)`` of M members on one part of the images of their tasks."""
    out = _empty_outputs(dataset, len(tasks), part)
    for start in range(0, len(tasks), BLOCK):
        here = slice(start, start + BLOCK)
        images, _ = task_batch(dataset, torch.tensor(tasks[here]), part)
        out[here] = net.run(take(weights, here), images)
    return out


def _empty_outputs(dataset: Dataset, count: int, part: str) -> Tensor:
    """Room for the outputs ``(count, B, c)``.

    Results are allocated before the work: small ones that are made between large temporary blocks
    and stay keep the allocator from reusing these (sampling took 5.5 GiB that way, and now 1.2).
    """
    classes = dataset.classes.shape[1]
    return torch.empty(count, dataset.images[part].shape[1] * classes, classes)


def outputs_by_task(
    net: Net, dataset: Dataset, tasks: np.ndarray, weights: Weights, part: str
) -> Tensor:
    """Outputs ``(T * n, B, c)`` of n networks per task, side by side, on the images of their task.

    Networks of one task share their images, which makes the first layer one wide product.
    """
    each = len(next(iter(weights.values()))) // len(tasks)
    out = _empty_outputs(dataset, len(tasks) * each, part)
    for place, task in enumerate(tasks):
        here = slice(place * each, (place + 1) * each)
        images, _ = task_batch(dataset, torch.tensor([task]), part)
        out[here] = net.run(take(weights, here), images[0])
    return out


def random_outputs(net: Net, dataset: Dataset, count: int, weights: Weights, seed: int) -> Tensor:
    """Outputs ``(M, count, c)`` on standard normal images, the same for all members."""
    images = torch.randn(count, *dataset.shape, generator=torch_stream(seed, "evaluate", "random"))
    return net.run(weights, images)


def task_losses(net: Net, dataset: Dataset, weights: Weights, tasks: Tensor) -> Tensor:
    """Cross entropy ``(N, T)`` of every network on the train images of every task."""
    of_task = dataset.classes[tasks]  # (T, c)
    classes, place = of_task.unique(return_inverse=True)
    images = dataset.images["train"][classes]  # (K, n, C, H, W)
    width = of_task.shape[1]
    out = images.new_empty(net.spec.check(weights), len(tasks))
    for start in range(0, len(out), BLOCK):
        here = slice(start, start + BLOCK)
        log_p = net.run(take(weights, here), images.flatten(0, 1)).log_softmax(-1)
        per_class = log_p.reshape(len(log_p), *images.shape[:2], width).mean(2)  # (N, K, c)
        out[here] = -per_class[:, place, torch.arange(width)].mean(2)
    return out
