"""Comparing networks by their outputs, with gradients: likeness to an original, result on a task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.data.dataset import Dataset, task_batch
from weightspace.nets.base import Net
from weightspace.params import AutoencoderSettings
from weightspace.rng import torch_stream
from weightspace.weights.spec import Weights
from weightspace.zoo.runner import real_outputs

KL_TEMPERATURE = 2.0  # softmax temperature of the KL: this many spreads of the original's outputs
CAUCHY_SCALE = 4.0  # squared error above 1 / CAUCHY_SCALE variances counts by its logarithm


def behaviour(rebuilt: Tensor, wanted: Tensor, spread: Tensor, own: int) -> dict[str, Tensor]:
    """Compare outputs ``(N, Q, c)``: robust error, KL of the softmax, cosine per sample.

    Args:
        rebuilt: outputs of the decoded networks.
        wanted: outputs of the originals.
        spread: standard deviation of each output of the originals ``(N, 1, c)``.
        own: the first so many queries are images of the member's own task; the others count 0.3.

    """
    error = ((rebuilt - wanted) / spread).square()
    near = (CAUCHY_SCALE * error[:, :own].mean((1, 2))).log1p().mean() / 2
    far = (
        (CAUCHY_SCALE * error[:, own:].mean((1, 2))).log1p().mean() / 2
        if rebuilt.shape[1] > own
        else 0
    )
    sharp = KL_TEMPERATURE / spread.mean(2, keepdim=True)
    log_p = (wanted[:, :own] * sharp).log_softmax(-1)
    log_q = (rebuilt[:, :own] * sharp).log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    cosine = (1 - F.cosine_similarity(rebuilt, wanted, dim=-1)).mean()
    return {"error": near + 0.3 * far, "kl": kl, "cosine": cosine}


def choose_images(dataset: Dataset, count: int, seed: int) -> Tensor:
    """Real train images of seen classes, the same number of each class: ``(K, C, H, W)``."""
    seen = torch.tensor(dataset.seen)
    images = dataset.images["train"][seen]  # (classes, n, C, H, W)
    generator = torch_stream(seed, "autoencoder", "probes")
    order = torch.randperm(images.shape[1], generator=generator)
    spread = images[:, order].transpose(0, 1).flatten(0, 1)  # class after class, then again
    return spread[:count].clone()


@dataclass(frozen=True)
class Originals:
    """Outputs of the original members of a split, computed once.

    Attributes:
        tasks: task of each member ``(N,)``.
        own: outputs on the train images of its task ``(N, c * n, c)``.
        other: outputs on the images of any class ``(N, K, c)``.

    """

    tasks: Tensor
    own: Tensor
    other: Tensor


def read_originals(
    net: Net, dataset: Dataset, images: Tensor, tasks: np.ndarray, weights: Weights
) -> Originals:
    """Run N members on the train images of their tasks and on images ``(K, C, H, W)``."""
    own = real_outputs(net, dataset, tasks, weights, "train")
    return Originals(torch.tensor(tasks), own, net.run(weights, images))


class BehaviouralLoss:
    """How differently decoded networks behave from their originals, on train images only.

    Args:
        net: the architecture.
        dataset: images of the tasks.
        images: images of any class ``(K, C, H, W)``.
        originals: split -> outputs of the originals.
        settings: section ``autoencoder`` of params.yaml.

    """

    def __init__(
        self,
        net: Net,
        dataset: Dataset,
        images: Tensor,
        originals: dict[str, Originals],
        settings: AutoencoderSettings,
    ) -> None:
        self.net, self.dataset, self.images = net, dataset, images
        self.originals, self.settings = originals, settings

    def __call__(
        self,
        rebuilt: Weights,
        rows: Tensor,
        split: str,
        rng: torch.Generator,
        order: Tensor | None = None,
        other: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum and its parts, on random images.

        Args:
            rebuilt: decoded networks ``(N, *shape)``.
            rows: numbers of their originals in the split ``(N,)``.
            split: "train" or "val".
            rng: draws the images.
            order: order of each network's outputs ``(N, c)``; by default as the originals'.
            other: outputs of the originals on ``images`` ``(N, K, c)`` in this order, where they
                are not those that were computed once.

        """
        s, o = self.settings, self.originals[split]
        all_own = o.own[rows] if order is None else reorder(o.own[rows], order)
        if other is None:
            other = o.other[rows] if order is None else reorder(o.other[rows], order)
        near = torch.randint(o.own.shape[1], (len(rows), s.own_queries), generator=rng)
        far = torch.randint(other.shape[1], (len(rows), s.other_queries), generator=rng)
        images, _ = task_batch(self.dataset, o.tasks[rows], "train")
        queries = torch.cat([images[torch.arange(len(rows))[:, None], near], self.images[far]], 1)
        wanted = torch.cat([_choose(all_own, near), _choose(other.detach(), far)], 1)
        spread = all_own.std(1, keepdim=True) + 1e-3
        parts = behaviour(self.net.outputs(rebuilt, queries), wanted, spread, s.own_queries)
        total = parts["error"] + s.kl_weight * parts["kl"] + s.cosine_weight * parts["cosine"]
        return total, parts


def reorder(outputs: Tensor, order: Tensor) -> Tensor:
    """Reorder the last axis of ``(N, Q, c)`` by ``(N, c)``."""
    return outputs.gather(2, order[:, None].expand_as(outputs))


def _choose(outputs: Tensor, index: Tensor) -> Tensor:
    """Choose queries ``(N, Q)`` of ``(N, all, c)``."""
    return outputs.gather(1, index[..., None].expand(-1, -1, outputs.shape[-1]))
