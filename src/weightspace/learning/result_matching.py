"""The result of networks on a task, with a gradient, compared with a target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.zoo.result import Result, labels_of

SIGMOID_WIDTH = 0.15  # of the accuracy's gradient, in standard deviations of the margin


def soft_result(outputs: Tensor, result: Result) -> tuple[Tensor, Tensor]:
    """Result per class, hard and soft, of outputs on images that come class after class.

    Args:
        outputs: ``(N, c * n, c)``.
        result: what R is.

    Returns:
        Two tensors ``(N, c)``: for accuracy the fraction of correct images and its smooth version,
        a sigmoid of the margin in units of its standard deviation; for loss twice the cross entropy.

    >>> outputs = torch.tensor([[[2.0, 0.0], [1.0, 0.0]]])  # right, then wrong
    >>> soft_result(outputs, Result("accuracy"))[0]
    tensor([[1., 0.]])

    """
    count, _, classes = outputs.shape
    labels = labels_of(outputs)
    index = labels.expand(count, -1)[..., None]
    if not result.higher_is_better:
        picked = outputs.log_softmax(-1).gather(2, index)[..., 0]
        loss = -picked.reshape(count, classes, -1).mean(2)
        return loss, loss
    right = outputs.gather(2, index)[..., 0]
    rivals = outputs.masked_fill(F.one_hot(labels, classes).bool(), -torch.inf).amax(-1)
    margin = right - rivals
    scale = SIGMOID_WIDTH * margin.detach().std(1, keepdim=True) + 1e-4
    soft = (margin / scale).sigmoid().reshape(count, classes, -1).mean(2)
    hard = (margin > 0).to(outputs.dtype).reshape(count, classes, -1).mean(2)
    return hard, soft


def result_error(outputs: Tensor, target: Tensor, result: Result) -> tuple[Tensor, Tensor]:
    """Squared distance of results from targets, the hard value forward and a soft gradient.

    Args:
        outputs: ``(N, c * n, c)`` on images that come class after class.
        target: requested results ``(N,)``.
        result: what R is.

    Returns:
        The error of each network ``(N,)`` and its soft results per class ``(N, c)``.

    >>> outputs = torch.tensor([[[2.0, 0.0], [1.0, 0.0]]])  # right, then wrong: accuracy .5
    >>> result_error(outputs, torch.tensor([0.9]), Result("accuracy"))[0]
    tensor([0.1600])

    """
    hard, soft = soft_result(outputs, result)
    achieved = soft.mean(1) + (hard.mean(1) - soft.mean(1)).detach()
    return (achieved - target).square(), soft
