"""The result R of a network on a task: its accuracy or its loss."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracies(outputs: Tensor) -> Tensor:
    """Accuracy ``(M,)`` of outputs ``(M, B, c)`` on images that come class after class."""
    labels = torch.arange(outputs.shape[-1]).repeat_interleave(
        outputs.shape[1] // outputs.shape[-1]
    )
    return (outputs.argmax(-1) == labels).double().mean(1)


def losses(outputs: Tensor) -> Tensor:
    """Mean cross entropy ``(M,)`` of outputs ``(M, B, c)`` on images that come class after class."""
    labels = torch.arange(outputs.shape[-1]).repeat_interleave(
        outputs.shape[1] // outputs.shape[-1]
    )
    log_p = outputs.double().log_softmax(-1)
    return -log_p.gather(-1, labels.expand(outputs.shape[:2])[..., None])[..., 0].mean(1)
