"""Are sampled networks new, or copies of training members?

Distances are to the nearest train member, in weights after alignment of hidden units and in
predictions; the reference is leave-one-out: a train member's distance to the nearest member of
another run. Networks at the same distance made by noise or by interpolation show that distance
alone is no merit.

Source of the questions: Zeng et al. (2025), Generative Modeling of Weights: Generalization or
Memorization?, arXiv 2506.07998.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.data.tasks import part_of
from weightspace.evaluate.controls import TrainMembers, at_distance, midpoints
from weightspace.evaluate.evaluation import Evaluation
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.weights.matching import align
from weightspace.weights.spec import Spec, Weights, take
from weightspace.zoo.result import accuracies, labels_of
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

DRAWS = 8  # networks drawn for one task
QUERIES = 25  # images of each seen class on which predictions are compared


@dataclass(frozen=True)
class Nearest:
    """Nearest train member of each of N networks.

    Attributes:
        row: of the member nearest in weights ``(N,)``.
        weight: distance in weights after alignment, relative to the network's norm ``(N,)``.
        function: fraction of images on which the predictions differ ``(N,)``, from 0 to 1.

    """

    row: np.ndarray
    weight: np.ndarray
    function: np.ndarray


def weight_distances(spec: Spec, one: Weights, others: Weights) -> np.ndarray:
    """Distances ``(N,)`` of a network to N others, which are aligned to it, relative to its norm.

    Args:
        spec: the architecture.
        one: the network ``(1, *shape)``.
        others: ``(N, *shape)``.

    """
    x, y = spec.flatten(one), spec.flatten(align(spec, one, others))
    return np.asarray((x - y).norm(dim=1) / x.norm(), dtype=float)


def predictions(runner: TaskRunner, weights: Weights) -> Tensor:
    """Predicted classes ``(N, Q)`` on train images of all seen classes."""
    seen = torch.tensor(runner.dataset.seen)
    images = runner.dataset.images["train"][seen][:, :QUERIES].flatten(0, 1)
    return runner.net.run(weights, images).argmax(-1)


def nearest(
    spec: Spec,
    networks: tuple[Weights, Tensor],
    members: tuple[Weights, Tensor],
    excluded: np.ndarray | None = None,
) -> Nearest:
    """Find the nearest members of N networks.

    Args:
        spec: the architecture.
        networks: weights ``(N, *shape)`` and predictions ``(N, Q)``.
        members: weights ``(M, *shape)`` and predictions ``(M, Q)``.
        excluded: bool ``(N, M)``, pairs that do not count, for leave-one-out.

    """
    (weights, labels), (others, other_labels) = networks, members
    function = (labels[:, None] != other_labels[None]).double().mean(-1).numpy()  # (N, M)
    weight = np.full(function.shape, np.inf)
    mask = np.zeros(function.shape, bool) if excluded is None else excluded
    with progress("alignment", len(function)) as bar:
        for i in range(len(function)):
            one = take(weights, slice(i, i + 1))
            counted = torch.from_numpy(~mask[i])
            weight[i, ~mask[i]] = weight_distances(spec, one, take(others, counted))
            bar.advance()
    function[mask] = np.inf
    return Nearest(weight.argmin(1), weight.min(1), function.min(1))


def evaluate_novelty(evaluation: Evaluation, split: str) -> dict[str, float] | None:
    """Metrics of one split, for networks drawn at the best trained result; None where it is empty.

    At most ``evaluate.novelty_networks`` networks are compared with as many finished train members.
    """
    sampler, runner, spec = evaluation.sampler, evaluation.runner, evaluation.zoo.spec
    limit, seed = evaluation.params.evaluate.novelty_networks, evaluation.params.seed
    tasks = evaluation.tasks(split)
    if not len(tasks):
        return None
    choice = stream(seed, "novelty", split)
    tasks = np.sort(choice.permutation(tasks)[:limit])
    condition = evaluation.best_condition(tasks)
    rng = torch_stream(seed, "novelty", "draws", split)
    drawn = sampler.draw(condition, DRAWS, rng)
    first = take(drawn, slice(None, None, DRAWS))
    table, finished = _finished(evaluation.train_members, limit, choice)
    known = (finished, predictions(runner, finished))
    of_draws = nearest(spec, (first, predictions(runner, first)), known)
    runs = table["run"].to_numpy()
    left_out = nearest(spec, known, known, runs[:, None] == runs[None])

    def accuracy(weights: Weights) -> float:
        outputs = runner.outputs_by_task(weights, tasks, part_of(split))
        return float(accuracies(outputs).median())

    embedding, target = sampler.embed(condition), condition.target.numpy()
    base, second = (
        evaluation.train_members.nearest_task(embedding, target, rank)[0] for rank in (0, 1)
    )
    outputs = runner.outputs_by_task(drawn, tasks, part_of(split))
    return {
        **_distances("weight_distance", of_draws.weight, left_out.weight),
        **_distances("function_distance", of_draws.function, left_out.function),
        "accuracy": accuracy(first),
        "control_accuracy_noise_same_distance": accuracy(
            at_distance(spec, base, of_draws.weight, rng)
        ),
        "control_accuracy_interpolation": accuracy(midpoints(spec, base, second)),
        "control_accuracy_nearest_task": accuracy(base),
        "error_overlap_draws": error_overlap(outputs, len(tasks)),
        "error_overlap_members": _member_overlap(evaluation.zoo, runner, split),
        "networks": len(tasks),
        "members": len(table),
    }


def _distances(name: str, of_draws: np.ndarray, left_out: np.ndarray) -> dict[str, float]:
    """Medians, and the fraction of draws nearer than 95 % of the members are to one another.

    Args:
        name: of the distance.
        of_draws: distance of each draw to the nearest member ``(N,)``.
        left_out: distance of each member to the nearest of another run ``(M,)``.

    """
    return {
        name: float(np.median(of_draws)),
        f"{name}_leave_one_out": float(np.median(left_out)),
        f"{name}_share_closer": float((of_draws < np.quantile(left_out, 0.05)).mean()),
    }


def _finished(
    train_members: TrainMembers, limit: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, Weights]:
    """At most ``limit`` finished train members: rows of their table ``(M,)`` and weights.

    Args:
        train_members: all of them.
        limit: M at most.
        rng: random stream of the choice.

    """
    last = train_members.members["snapshot"] == train_members.members["snapshot"].max()
    rows = np.sort(rng.permutation(np.flatnonzero(last.to_numpy()))[:limit])
    return train_members.members.iloc[rows], take(train_members.weights, torch.from_numpy(rows))


def _member_overlap(zoo: Zoo, runner: TaskRunner, split: str) -> float:
    """The reference of :func:`error_overlap`: finished runs of one task, mean over tasks.

    Args:
        zoo: the population.
        runner: the tasks.
        split: of the members.

    """
    members = zoo.select(split, last_only=True)
    tasks, weights = members["task"].to_numpy(), zoo.weights(members)
    outputs = runner.outputs(weights, tasks, part_of(split))
    groups = [torch.tensor(g.index.to_numpy()) for _, g in members.groupby("task") if len(g) > 1]
    overlaps = [error_overlap(outputs[rows], 1) for rows in groups]
    return float(np.nanmean(overlaps)) if np.isfinite(overlaps).any() else float("nan")


def error_overlap(outputs: Tensor, tasks: int) -> float:
    """Intersection over union of the error sets of two draws for one task, mean over pairs.

    Args:
        outputs: ``(tasks * n, B, c)``, the draws of a task side by side, images class after class.
        tasks: how many tasks there are. Pairs without any error are left out.

    >>> wrong, right = torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.eye(2)  # first image wrong
    >>> error_overlap(torch.stack([wrong, wrong]), 1), error_overlap(torch.stack([wrong, right]), 1)
    (1.0, 0.0)

    """
    wrong = (outputs.argmax(-1) != labels_of(outputs)).double()
    wrong = wrong.reshape(tasks, -1, outputs.shape[1])
    both = wrong @ wrong.transpose(1, 2)
    count = wrong.sum(-1)
    union = count[:, :, None] + count[:, None] - both
    upper = torch.triu(torch.ones_like(both), 1).bool() & (union > 0)
    return float((both[upper] / union[upper]).mean()) if upper.any() else float("nan")
