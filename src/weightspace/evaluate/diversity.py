"""How alike are two draws of one request, beside two trained networks of one task and like result?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.data.dataset import class_labels
from weightspace.data.tasks import part_of
from weightspace.evaluate import metrics as m
from weightspace.evaluate.evaluation import Scoring
from weightspace.sampling.requests import Grid
from weightspace.weights.spec import BLOCK, Population, block_size, fill_blocks, take
from weightspace.zoo.runner import TaskRunner


def predictions(runner: TaskRunner, networks: Population, tasks: np.ndarray, part: str) -> Tensor:
    """Predicted classes ``(N, B)``, each network on the images of its task, a byte each.

    Args:
        runner: the tasks.
        networks: N of them.
        tasks: task of each ``(N,)``.
        part: "train", "val" or "test".

    """
    images = runner.dataset.images[part].shape[1] * runner.classes

    def compute(rows: slice) -> Tensor:
        return runner.outputs(take(networks, rows), tasks[rows], part).argmax(-1)

    room = torch.empty(len(tasks), images, dtype=torch.uint8)
    return fill_blocks(room, block_size(runner.net.spec, BLOCK), compute)


def diversity(scoring: Scoring, grid: Grid, predicted: Tensor, split: str) -> dict[str, float]:
    """``agreement_`` and ``error_overlap_``, each of ``draws`` and of ``members``, over pairs of networks.

    A request counts where its task has members of two runs whose results are nearest to its target, of
    each run the nearest of them: draws and members are compared on the same requests. Mean over requests of each target, then over
    targets; 1 would be copies of one network. Where no request counts, all do for draws, and the
    figures of members are NaN.

    Args:
        scoring: the population and its tasks.
        grid: T x K requests, tasks in rising order.
        predicted: classes that n draws of each request predict ``(T * K, n, B)``.
        split: split of the tasks.

    """
    zoo, runner, targets = scoring.zoo, scoring.runner, len(grid.targets)
    members = zoo.select(split)
    distance = np.abs(scoring.result.of_members(members)[:, None] - grid.targets)
    request = np.searchsorted(grid.tasks, members["task"]) * targets + distance.argmin(1)
    members = members.assign(request=request, distance=distance.min(1))
    nearest = members.sort_values("distance", kind="stable").drop_duplicates(["run", "request"])
    members = nearest.sort_index()
    tasks = members["task"].to_numpy()
    of_members = predictions(runner, zoo.networks(members), tasks, part_of(split))
    request = members["request"].to_numpy()
    requests, count = np.unique(request, return_counts=True)
    alike = {int(r): of_members[torch.from_numpy(request == r)] for r in requests[count > 1]}
    of_draws = {r: predicted[r] for r in alike or range(len(grid))}
    scores = {"draws": of_draws, "members": alike}
    return {k: v for who, x in scores.items() for k, v in _alike(who, x, runner, targets).items()}


def _alike(
    who: str, predicted: Mapping[int, Tensor], runner: TaskRunner, targets: int
) -> dict[str, float]:
    """Mean agreement and error overlap over requests of each target, then over targets.

    Args:
        who: suffix of the names.
        predicted: request -> classes that its networks predict ``(n, B)``.
        runner: the tasks.
        targets: K, requests of a task.

    """
    rows = [
        (r % targets, m.pairwise_agreement(x), m.error_overlap(x != _labels(x, runner.classes)))
        for r, x in predicted.items()
    ]
    columns = ["target", f"agreement_{who}", f"error_overlap_{who}"]
    means = pd.DataFrame(rows, columns=columns, dtype=float).groupby("target").mean().mean()
    return {name: float(means[name]) for name in columns[1:]}


def _labels(predicted: Tensor, classes: int) -> Tensor:
    """Labels ``(B,)`` of predictions ``(..., B)`` on images that come class after class."""
    return class_labels(classes, predicted.shape[-1] // classes)
