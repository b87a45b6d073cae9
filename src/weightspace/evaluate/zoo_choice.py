"""What the zoo gives without a gradient: its best member, and a backbone with a new output layer.

For each request :class:`ZooChoice` takes the train member that is nearest to it on train images. Every
member is run once on images of every class. The result of a task is the mean over its classes, so
this gives that of every member on every task, in all orders of its outputs. :class:`RidgeHead` fits
an output layer in closed form, which takes the features of all train images but no step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.evaluate.tuning import Outcome
from weightspace.nets.base import Net
from weightspace.sampling.requests import Grid, nearest_to
from weightspace.weights.lazy import Selected
from weightspace.weights.spec import (
    BLOCK,
    Population,
    Weights,
    block_size,
    count,
    fill_blocks,
    output_orders,
    take,
)
from weightspace.zoo.result import Result
from weightspace.zoo.runner import TaskRunner

IMAGES = 32  # train images of each class at most, which the choice is made on


@dataclass(frozen=True)
class ZooChoice:
    """Chooses among given networks.

    Attributes:
        runner: runs networks.
        result: what R is.
        networks: N to choose from.

    """

    runner: TaskRunner
    result: Result
    networks: Population

    def __call__(self, grid: Grid, _: float, part: str) -> Outcome:
        """Results of the chosen networks on a part of the images; there is nothing to set.

        Args:
            grid: the requests.
            part: images that the chosen networks are measured on, "val" or "test".

        """
        orders, chosen = output_orders(self.runner.classes), []
        for classes in self.runner.dataset.classes[torch.from_numpy(grid.tasks)]:
            on_task = self.by_class[:, classes[None, :], orders].mean(2)  # (N, O)
            chosen += [int(nearest_to(on_task.flatten().numpy(), t)) for t in grid.targets]
        index = torch.tensor(chosen)
        member, order = index // len(orders), orders[index % len(orders)]
        outputs = self.runner.outputs(Selected(self.networks, member), grid.task.numpy(), part)
        reordered = outputs.gather(2, order[:, None, :].expand_as(outputs))
        return Outcome(self.result.of(reordered).numpy())

    @cached_property
    def by_class(self) -> Tensor:
        """Mean result ``(N, K, c)`` of every network on images of each class, if they had each label."""
        net, images = self.runner.net, self.runner.dataset.images["train"][:, :IMAGES]
        classes, per_class = images.shape[:2]

        def compute(rows: slice) -> Tensor:
            outputs = net.run(take(self.networks, rows), images.flatten(0, 1))
            if self.result.higher_is_better:
                of_label = F.one_hot(outputs.argmax(-1), outputs.shape[2]).float()
            else:
                of_label = -outputs.log_softmax(-1)
            by_class: Tensor = of_label.unflatten(1, (classes, per_class)).mean(2)
            return by_class

        room = torch.empty(count(self.networks), classes, self.runner.classes)
        return fill_blocks(room, block_size(net.spec, BLOCK), compute)


@dataclass(frozen=True)
class RidgeHead:
    """Networks of the nearest train task with a new output layer, by ridge regression on one-hot labels.

    Attributes:
        runner: runs networks.
        result: what R is.
        start: network of each request.

    """

    runner: TaskRunner
    result: Result
    start: Callable[[Grid], Population]

    def __call__(self, grid: Grid, strength: float, part: str) -> Outcome:
        """Results on a part of the images; a closed form takes no gradient.

        Args:
            grid: the requests.
            strength: of the penalty, in mean squares of a feature.
            part: images that the networks are measured on, "val" or "test".

        """
        runner, start, outputs = self.runner, self.start(grid), []
        for i, task in enumerate(grid.task[:, None]):
            network = take(take(start, slice(i, i + 1)), 0)
            seen, other = (
                head_inputs(runner.net, network, runner.dataset.task_batch(task, p)[0][0])
                for p in ("train", part)
            )
            _, labels = runner.dataset.task_batch(task, "train")
            outputs.append(ridge(seen, F.one_hot(labels, runner.classes), strength, other).cpu())
        return Outcome(self.result.of(torch.stack(outputs)).numpy())


@torch.no_grad()
def head_inputs(net: Net, network: Weights, images: Tensor) -> Tensor:
    """What the output layer of one network ``(*shape)`` reads for images: ``(B, features)``."""
    inputs: list[Tensor] = []
    head = net.module.get_submodule(net.spec.head[0].rpartition(".")[0])
    hook = head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        net.forward({name: w.to(images.device) for name, w in network.items()}, images)
    finally:
        hook.remove()
    return inputs[0].flatten(1)


def ridge(x: Tensor, y: Tensor, strength: float, other: Tensor) -> Tensor:
    """Predictions ``(M, c)`` for other inputs by ridge regression, whose offset is not penalised.

    Args:
        x: inputs ``(B, d)``.
        y: what they should give ``(B, c)``.
        strength: of the penalty, in mean squares of a centred input, 0 or above.
        other: inputs ``(M, d)``.

    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> ridge(x, 1 + 2 * x, 0.0, torch.tensor([[5.0]]))  # without a penalty the line itself
    tensor([[11.]], dtype=torch.float64)
    >>> ridge(x, 1 + 2 * x, 1e9, torch.tensor([[5.0]])).round(decimals=3)  # the mean
    tensor([[3.]], dtype=torch.float64)

    """
    x, y, other = x.double(), y.double(), other.double()
    origin, mean = x.mean(0), y.mean(0)
    x, y = x - origin, y - mean
    gram = x.T @ x
    penalty = strength * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    slope: Tensor = torch.linalg.pinv(gram + penalty, hermitian=True) @ x.T @ y
    return mean + (other - origin) @ slope
