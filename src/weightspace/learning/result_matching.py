"""The result of networks on a task, with a gradient, against a target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMOID_WIDTH = 0.15  # of the accuracy's gradient, in spreads of the margin


def soft_result(outputs: Tensor, result: str) -> tuple[Tensor, Tensor]:
    """Result per class, hard and soft, of outputs on images that come class after class.

    Args:
        outputs: ``(N, c * n, c)``.
        result: "accuracy" or "loss".

    Returns:
        Two tensors ``(N, c)``: for accuracy the share of correct images and its smooth version,
        a sigmoid of the margin in units of its spread; for loss twice the cross entropy.

    """
    count, total, classes = outputs.shape
    labels = torch.arange(classes).repeat_interleave(total // classes)
    if result == "loss":
        picked = outputs.log_softmax(-1).gather(2, labels.expand(count, -1)[..., None])[..., 0]
        loss = -picked.reshape(count, classes, -1).mean(2)
        return loss, loss
    right = outputs.gather(2, labels.expand(count, -1)[..., None])[..., 0]
    rivals = outputs.masked_fill(F.one_hot(labels, classes).bool(), -torch.inf).amax(-1)
    margin = right - rivals
    scale = SIGMOID_WIDTH * margin.detach().std(1, keepdim=True) + 1e-4
    soft = (margin / scale).sigmoid().reshape(count, classes, -1).mean(2)
    hard = (margin > 0).to(outputs.dtype).reshape(count, classes, -1).mean(2)
    return hard, soft


def result_error(outputs: Tensor, wanted: Tensor, result: str) -> tuple[Tensor, Tensor]:
    """Squared distance of results from requests, the hard value forward and a soft gradient.

    Args:
        outputs: ``(N, c * n, c)`` on images that come class after class.
        wanted: requested results ``(N,)``.
        result: "accuracy" or "loss".

    Returns:
        The error of each network ``(N,)`` and its soft results per class ``(N, c)``.

    """
    hard, soft = soft_result(outputs, result)
    achieved = soft.mean(1) + (hard.mean(1) - soft.mean(1)).detach()
    return (achieved - wanted).square(), soft
