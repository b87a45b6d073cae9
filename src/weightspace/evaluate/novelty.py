"""Are sampled networks new, or copies of training members?

Distances are to the nearest train member, in weights after alignment of hidden units and in
predictions; the yardstick is leave-one-out: a train member's distance to the nearest member of
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

from weightspace.data.dataset import Dataset
from weightspace.evaluate.controls import TrainMembers, at_distance, midpoints
from weightspace.nets.base import Net
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.sampler import Sampler
from weightspace.weights.matching import align
from weightspace.weights.spec import Spec, Weights, take
from weightspace.zoo.result import accuracies
from weightspace.zoo.runner import outputs_by_task, real_outputs
from weightspace.zoo.store import Zoo

DRAWS = 8  # networks drawn for one task
QUERIES = 25  # images of each seen class on which predictions are compared


@dataclass(frozen=True)
class Nearest:
    """Nearest train member of each network: row and distance ``(N,)`` by weights and by function.

    The weight distance is relative to the network's own norm; the function distance is the share
    of images on which the predictions differ.
    """

    row: np.ndarray
    weight: np.ndarray
    function: np.ndarray


def weight_distances(spec: Spec, one: Weights, others: Weights) -> np.ndarray:
    """Relative distances ``(N,)`` of a network ``(1, *shape)`` to N others, which are aligned to it."""
    x, y = spec.flatten(one), spec.flatten(align(spec, one, others))
    return np.asarray((x - y).norm(dim=1) / x.norm(), dtype=float)


def predictions(net: Net, dataset: Dataset, weights: Weights) -> Tensor:
    """Predicted classes ``(N, Q)`` on train images of all seen classes."""
    images = dataset.images["train"][torch.tensor(dataset.seen)][:, :QUERIES].flatten(0, 1)
    return net.run(weights, images).argmax(-1)


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


def evaluate_novelty(
    zoo: Zoo, sampler: Sampler, donors: TrainMembers, split: str, limit: int, seed: int
) -> dict[str, float] | None:
    """Figures of one split, for networks drawn at the highest trained result.

    Args:
        zoo: the population.
        sampler: what draws.
        donors: train members.
        split: split whose tasks are sampled for.
        limit: networks and finished train members compared at most, in each role.
        seed: root seed.

    """
    tasks = np.unique(zoo.select(split)["task"])
    if not len(tasks):
        return None
    rng = stream(seed, "novelty", split)
    tasks = np.sort(rng.permutation(tasks)[:limit])
    dataset, net, spec = sampler.dataset, sampler.net, zoo.spec
    top = sampler.shared_encoder.trained_range[1].expand(len(tasks))
    generator = torch_stream(seed, "novelty", "draws", split)
    drawn = sampler.draw(torch.from_numpy(tasks), top, DRAWS, generator)
    first = take(drawn, slice(None, None, DRAWS))
    table, finished = _finished(donors, limit, rng)
    known = (finished, predictions(net, dataset, finished))
    found = nearest(spec, (first, predictions(net, dataset, first)), known)
    runs = table["run"].to_numpy()
    left_out = nearest(spec, known, known, runs[:, None] == runs[None])
    part = "val" if split == "val" else "test"

    def accuracy(weights: Weights) -> float:
        return float(accuracies(outputs_by_task(net, dataset, tasks, weights, part)).median())

    base, second = _donor_pairs(donors, sampler, tasks, float(top[0]))
    outputs = outputs_by_task(net, dataset, tasks, drawn, part)
    return {
        "weight_distance": float(np.median(found.weight)),
        "weight_distance_leave_one_out": float(np.median(left_out.weight)),
        "weight_distance_share_closer": float(
            (found.weight < np.quantile(left_out.weight, 0.05)).mean()
        ),
        "function_distance": float(np.median(found.function)),
        "function_distance_leave_one_out": float(np.median(left_out.function)),
        "function_distance_share_closer": float(
            (found.function < np.quantile(left_out.function, 0.05)).mean()
        ),
        "accuracy": accuracy(first),
        "accuracy_noise_same_distance": accuracy(at_distance(spec, base, found.weight, generator)),
        "accuracy_interpolation": accuracy(midpoints(spec, base, second)),
        "accuracy_nearest_task": accuracy(base),
        "error_overlap_draws": error_overlap(outputs, len(tasks)),
        "error_overlap_members": _member_overlap(zoo, net, dataset, split, part),
        "networks": len(tasks),
        "members": len(table),
    }


def _finished(
    donors: TrainMembers, limit: int, rng: np.random.Generator
) -> tuple[pd.DataFrame, Weights]:
    """At most ``limit`` finished train members."""
    last = donors.members["snapshot"] == donors.members["snapshot"].max()
    rows = np.sort(rng.permutation(np.flatnonzero(last.to_numpy()))[:limit])
    return donors.members.iloc[rows], take(donors.weights, torch.from_numpy(rows))


def _donor_pairs(
    donors: TrainMembers, sampler: Sampler, tasks: np.ndarray, top: float
) -> tuple[Weights, Weights]:
    """For each task: the best networks of the nearest and of the second nearest training task."""
    with torch.no_grad():
        e = sampler.shared_encoder.embed(sampler.dataset, torch.from_numpy(tasks))
    asked = np.full(len(tasks), top)
    return donors.nearest_task(e, asked)[0], donors.nearest_task(e, asked, rank=1)[0]


def _member_overlap(zoo: Zoo, net: Net, dataset: Dataset, split: str, part: str) -> float:
    """The yardstick of :func:`error_overlap`: finished runs of one task, mean over tasks."""
    members = zoo.select(split, last_only=True)
    outputs = real_outputs(net, dataset, members["task"].to_numpy(), zoo.weights(members), part)
    groups = [torch.tensor(g.index.to_numpy()) for _, g in members.groupby("task") if len(g) > 1]
    found = [error_overlap(outputs[rows], 1) for rows in groups]
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def error_overlap(outputs: Tensor, tasks: int) -> float:
    """Intersection over union of the error sets of two draws for one task, mean over pairs.

    Args:
        outputs: ``(tasks * n, B, c)``, the draws of a task side by side, images class after class.
        tasks: number of tasks. Pairs without any error are left out.

    """
    labels = torch.arange(outputs.shape[2]).repeat_interleave(outputs.shape[1] // outputs.shape[2])
    wrong = (outputs.argmax(-1) != labels).double().reshape(tasks, -1, outputs.shape[1])
    both = wrong @ wrong.transpose(1, 2)
    count = wrong.sum(-1)
    union = count[:, :, None] + count[:, None] - both
    upper = torch.triu(torch.ones_like(both), 1).bool() & (union > 0)
    return float((both[upper] / union[upper]).mean()) if upper.any() else float("nan")
