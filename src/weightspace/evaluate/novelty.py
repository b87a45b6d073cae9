"""Are sampled networks new, or copies of training members?

Distances are to the nearest finished train member: in predictions, and among those nearest in
predictions also in weights, after alignment of hidden units. The reference is leave-one-out: a train
member's distance to the nearest member of another run. Networks at the same distance made by noise or by interpolation show that distance
alone is no merit.

Source of the questions: Zeng et al. (2025), Generative Modeling of Weights: Generalization or
Memorization?, arXiv 2506.07998.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.data.tasks import TEST_SPLITS, part_of
from weightspace.evaluate.controls import at_distance, midpoints
from weightspace.evaluate.evaluation import Evaluation, Scoring
from weightspace.evaluate.metrics import error_overlap
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.sampler import Condition
from weightspace.weights.lazy import Selected
from weightspace.weights.matching import align
from weightspace.weights.spec import (
    Population,
    Spec,
    Weights,
    block_size,
    blocks,
    count,
    take,
    to_device,
)
from weightspace.zoo.result import accuracies, labels_of
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

DRAWS = 8  # networks drawn for one task
MATCHED = 50  # members nearest in predictions, whose weights are matched
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


def weight_distances(spec: Spec, one: Weights, others: Population) -> np.ndarray:
    """Distances ``(N,)`` of a network to N others, which are aligned to it, relative to its norm.

    Args:
        spec: the architecture.
        one: the network ``(1, *shape)``.
        others: N networks.

    """
    one = to_device(one, torch.device("cpu"))
    x = spec.flatten(one)
    return np.concatenate(
        [
            ((x - spec.flatten(align(spec, one, block))).norm(dim=1) / x.norm()).double().numpy()
            for block in blocks(others, block_size(spec, MATCHED))
        ]
    )


def predictions(runner: TaskRunner, networks: Population) -> Tensor:
    """Predicted classes ``(N, Q)`` on train images of all seen classes."""
    seen = torch.tensor(runner.dataset.seen)
    images = runner.dataset.images["train"][seen][:, :QUERIES].flatten(0, 1)
    return runner.on_images(networks, images).argmax(-1)


def nearest(
    spec: Spec,
    networks: tuple[Population, Tensor],
    members: tuple[Population, Tensor],
    excluded: np.ndarray | None = None,
) -> Nearest:
    """Find the nearest members of N networks.

    Predictions of all are compared first, which costs little. Weights are matched with the 50 members
    nearest in predictions; a copy is among them, whatever the order of its hidden units.

    Args:
        spec: the architecture.
        networks: N of them and their predictions ``(N, Q)``.
        members: M of them and their predictions ``(M, Q)``.
        excluded: bool ``(N, M)``, pairs that do not count, for leave-one-out.

    """
    (weights, labels), (others, other_labels) = networks, members
    row, weight, function = np.zeros(len(labels), int), *np.full((2, len(labels)), np.inf)
    with progress("alignment", len(labels)) as bar:
        for i, predicted in enumerate(labels):
            differing = (predicted != other_labels).double().mean(-1)  # (M,)
            if excluded is not None:
                differing[torch.from_numpy(excluded[i])] = torch.inf
            close = differing.argsort(stable=True)[:MATCHED]
            close = close[differing[close].isfinite()].sort().values
            if len(close):
                one = take(weights, slice(i, i + 1))
                distance = weight_distances(spec, one, Selected(others, close))
                row[i], weight[i] = int(close[distance.argmin()]), distance.min()
                function[i] = float(differing.min())
            bar.advance()
    return Nearest(row, weight, function)


@dataclass(frozen=True)
class Finished:
    """All finished train members.

    Attributes:
        networks: M of them.
        labels: their predictions ``(M, Q)``.
        runs: their runs ``(M,)``.

    """

    networks: Population
    labels: Tensor
    runs: np.ndarray

    @classmethod
    def of(cls, scoring: Scoring) -> Finished:
        """Those of the zoo that is evaluated."""
        members = scoring.zoo.select("train", last_only=True)
        networks = scoring.zoo.networks(members)
        return cls(networks, predictions(scoring.runner, networks), members["run"].to_numpy())

    def leave_one_out(self, spec: Spec, rows: np.ndarray) -> Nearest:
        """For some members ``(m,)``: the nearest ones of other runs."""
        chosen = torch.from_numpy(rows)
        some = (Selected(self.networks, chosen), self.labels[chosen])
        excluded = self.runs[rows][:, None] == self.runs[None]
        return nearest(spec, some, (self.networks, self.labels), excluded)


def evaluate_novelty(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Metrics of each test split that has tasks, for networks drawn at the best trained result.

    At most ``evaluate.novelty_networks`` networks are compared with all finished train members, and
    so are as many of these members.
    """
    known = Finished.of(evaluation)
    return {
        split: _of_split(evaluation, split, known)
        for split in TEST_SPLITS
        if len(evaluation.tasks(split))
    }


@dataclass(frozen=True)
class Comparison:
    """Networks drawn for T tasks, the first of each task beside all finished train members.

    Attributes:
        tasks: T of them.
        of_draws: nearest members of the T networks.
        left_out: nearest members of another run, of as many members.
        outputs: of all draws ``(T * 8, B, c)`` on images of their tasks.
        members: how many finished train members there are.

    """

    tasks: np.ndarray
    of_draws: Nearest
    left_out: Nearest
    outputs: Tensor
    members: int

    @classmethod
    def of(
        cls, scoring: Scoring, split: str, known: Finished, draw: Callable[[Condition], Population]
    ) -> Comparison:
        """Draw networks at the best trained result, 8 for each of some tasks, and compare them.

        Args:
            scoring: the tasks.
            split: a test split.
            known: the members to compare with.
            draw: T requests -> ``T * 8`` networks, those of a request side by side.

        """
        runner, spec, limit = scoring.runner, scoring.zoo.spec, scoring.settings.novelty_networks
        choice = stream(scoring.seed, "novelty", split)
        tasks = np.sort(choice.permutation(scoring.tasks(split))[:limit])
        drawn = draw(scoring.best_condition(tasks))
        first = Selected(drawn, torch.arange(0, count(drawn), DRAWS))
        of_draws = nearest(
            spec, (first, predictions(runner, first)), (known.networks, known.labels)
        )
        left_out = known.leave_one_out(spec, np.sort(choice.permutation(len(known.runs))[:limit]))
        outputs = runner.outputs_by_task(drawn, tasks, part_of(split))
        return cls(tasks, of_draws, left_out, outputs, len(known.runs))

    def metrics(self) -> dict[str, float]:
        """Distances, accuracy of the first draws, and how far the errors of draws overlap."""
        wrong = _wrong(self.outputs).unflatten(0, (len(self.tasks), -1))
        return {
            **distances("weight_distance", self.of_draws.weight, self.left_out.weight),
            **distances("function_distance", self.of_draws.function, self.left_out.function),
            "accuracy": float(accuracies(self.outputs[::DRAWS]).median()),
            "error_overlap_draws": error_overlap(wrong),
            "networks": len(self.tasks),
            "members": self.members,
        }


def _of_split(evaluation: Evaluation, split: str, known: Finished) -> dict[str, float]:
    """Metrics of one split.

    Args:
        evaluation: what draws, and the train members.
        split: a test split.
        known: the members to compare with.

    """
    sampler, runner, spec = evaluation.sampler, evaluation.runner, evaluation.zoo.spec
    rng = torch_stream(evaluation.seed, "novelty", "draws", split)

    def draw(condition: Condition) -> Population:
        z = sampler.guided(sampler.latents(condition, DRAWS, rng), condition, rng)
        return sampler.networks(z)

    compared = Comparison.of(evaluation, split, known, draw)
    tasks = compared.tasks

    def accuracy(networks: Population) -> float:
        return float(accuracies(runner.outputs_by_task(networks, tasks, part_of(split))).median())

    condition = evaluation.best_condition(tasks)
    embedding, target = sampler.embed(condition), condition.target.numpy()
    base, second = (
        evaluation.train_members.nearest_task(embedding, target, rank) for rank in (0, 1)
    )
    return {
        **compared.metrics(),
        "control_accuracy_noise_same_distance": accuracy(
            at_distance(spec, base, compared.of_draws.weight, rng)
        ),
        "control_accuracy_interpolation": accuracy(midpoints(spec, base, second)),
        "control_accuracy_nearest_task": accuracy(base),
        "error_overlap_members": member_overlap(evaluation.zoo, runner, split),
    }


def distances(name: str, of_draws: np.ndarray, left_out: np.ndarray) -> dict[str, float]:
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


def member_overlap(zoo: Zoo, runner: TaskRunner, split: str) -> float:
    """Overlap of errors of trained networks: finished runs of one task, mean over tasks.

    Args:
        zoo: the population.
        runner: the tasks.
        split: of the members.

    """
    members = zoo.select(split, last_only=True)
    tasks, networks = members["task"].to_numpy(), zoo.networks(members)
    wrong = _wrong(runner.outputs(networks, tasks, part_of(split)))
    groups = [torch.tensor(g.index.to_numpy()) for _, g in members.groupby("task") if len(g) > 1]
    overlaps = [error_overlap(wrong[rows]) for rows in groups]
    return float(np.nanmean(overlaps)) if np.isfinite(overlaps).any() else float("nan")


def _wrong(outputs: Tensor) -> Tensor:
    """Where predictions are wrong, bool ``(N, B)``, of outputs on images that come class after class."""
    return outputs.argmax(-1) != labels_of(outputs)
