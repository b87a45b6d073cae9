"""How differently a decoded network behaves from its original, with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.params import AutoencoderSettings
from weightspace.weights.spec import Weights
from weightspace.zoo.runner import TaskRunner

KL_TEMPERATURE = 2.0  # softmax temperature of the KL: this many standard deviations of the outputs
CAUCHY_SCALE = 4.0  # squared error above 1 / CAUCHY_SCALE variances counts by its logarithm


def behaviour(rebuilt: Tensor, original: Tensor, std: Tensor, on_task: int) -> dict[str, Tensor]:
    """Compare outputs ``(N, Q, c)``: robust error, KL of the softmax, cosine per sample.

    Args:
        rebuilt: outputs of the decoded networks.
        original: outputs of the originals.
        std: standard deviation of each output of the originals ``(N, 1, c)``.
        on_task: the first so many queries are images of the member's task; the others count 0.3.

    >>> outputs = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    >>> behaviour(outputs, outputs, torch.ones(2, 1, 3), 4)["kl"]  # equal networks
    tensor(0.)

    """
    error = ((rebuilt - original) / std).square()
    near, far = (_robust(part) for part in (error[:, :on_task], error[:, on_task:]))
    sharp = KL_TEMPERATURE / std.mean(2, keepdim=True)
    log_p = (original[:, :on_task] * sharp).log_softmax(-1)
    log_q = (rebuilt[:, :on_task] * sharp).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    cosine = (1 - F.cosine_similarity(rebuilt, original, dim=-1)).mean()
    return {"error": near + 0.3 * far, "kl": kl, "cosine": cosine}


def _robust(error: Tensor) -> Tensor:
    """``log(1 + k e) / 2`` of the mean squared errors of N networks ``(N, Q, c)``, mean over them."""
    if not error.shape[1]:
        return error.new_zeros(())
    return (CAUCHY_SCALE * error.mean((1, 2))).log1p().mean() / 2


@dataclass(frozen=True)
class Originals:
    """Outputs of the original members of a split, computed once.

    Attributes:
        tasks: task of each member ``(N,)``.
        on_task: outputs on the train images of its task ``(N, c * n, c)``.
        on_probes: outputs on the images of any class ``(N, K, c)``.

    """

    tasks: Tensor
    on_task: Tensor
    on_probes: Tensor


def read_originals(
    runner: TaskRunner, images: Tensor, tasks: np.ndarray, weights: Weights
) -> Originals:
    """Run N members on the train images of their tasks and on images of any class.

    Args:
        runner: the architecture and the tasks.
        images: of any class ``(K, C, H, W)``.
        tasks: task of each member ``(N,)``.
        weights: tensors ``(N, *shape)``.

    """
    on_task = runner.outputs(weights, tasks, "train").to(images.device)
    return Originals(torch.tensor(tasks), on_task, runner.net.run(weights, images))


class BehaviouralLoss:
    """How differently decoded networks behave from their originals, on train images only.

    Args:
        runner: the architecture and the tasks.
        images: images of any class ``(K, C, H, W)``.
        originals: split -> outputs of the originals.
        settings: section ``autoencoder`` of params.yaml.

    """

    def __init__(
        self,
        runner: TaskRunner,
        images: Tensor,
        originals: dict[str, Originals],
        settings: AutoencoderSettings,
    ) -> None:
        self.runner, self.images = runner, images
        self.originals, self.settings = originals, settings

    def __call__(
        self,
        rebuilt: Weights,
        rows: Tensor,
        split: str,
        rng: torch.Generator,
        order: Tensor | None = None,
        on_probes: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum and its parts, on random images.

        Args:
            rebuilt: decoded networks ``(N, *shape)``.
            rows: indices of their originals in the split ``(N,)``.
            split: "train" or "val".
            rng: draws the images.
            order: order of each network's outputs ``(N, c)``; by default as the originals'.
            on_probes: outputs of the originals on ``images`` ``(N, K, c)`` in this order, where they
                are not those that were computed once.

        """
        s, o = self.settings, self.originals[split]
        on_task = o.on_task[rows] if order is None else reorder(o.on_task[rows], order)
        if on_probes is None:
            on_probes = o.on_probes[rows] if order is None else reorder(o.on_probes[rows], order)
        near = torch.randint(on_task.shape[1], (len(rows), s.own_queries), generator=rng)
        far = torch.randint(on_probes.shape[1], (len(rows), s.other_queries), generator=rng)
        images, _ = self.runner.dataset.task_batch(o.tasks[rows], "train")
        queries = torch.cat([images[torch.arange(len(rows))[:, None], near], self.images[far]], 1)
        original = torch.cat([_choose(on_task, near), _choose(on_probes.detach(), far)], 1)
        std = on_task.std(1, keepdim=True) + 1e-3
        parts = behaviour(self.runner.net.outputs(rebuilt, queries), original, std, s.own_queries)
        total = parts["error"] + s.kl_weight * parts["kl"] + s.cosine_weight * parts["cosine"]
        return total, parts


def reorder(outputs: Tensor, order: Tensor) -> Tensor:
    """Reorder the last axis of ``(N, Q, c)`` by ``(N, c)``.

    >>> reorder(torch.tensor([[[5.0, 6.0, 7.0]]]), torch.tensor([[2, 0, 1]]))
    tensor([[[7., 5., 6.]]])
    """
    return outputs.gather(2, order.to(outputs.device)[:, None].expand_as(outputs))


def _choose(outputs: Tensor, index: Tensor) -> Tensor:
    """Choose queries ``(N, Q)`` of ``(N, all, c)``."""
    index = index.to(outputs.device)
    return outputs.gather(1, index[..., None].expand(-1, -1, outputs.shape[-1]))
