"""How differently a decoded network behaves from its original, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.params import AutoencoderSettings
from weightspace.zoo.outputs import Originals
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


class BehaviouralLoss:
    """How differently decoded networks behave from their originals, on train images only.

    Args:
        runner: the architecture and the tasks.
        images: the probes ``(K, C, H, W)``; a tensor that changes where probes are learned.
        originals: split -> outputs of the originals.
        settings: section ``autoencoder`` of params.yaml.

    """

    def __init__(
        self,
        runner: TaskRunner,
        images: Tensor,
        originals: Mapping[str, Originals],
        settings: AutoencoderSettings,
    ) -> None:
        self.runner, self.images = runner, images
        self.originals, self.settings = originals, settings

    def __call__(
        self,
        outputs: Callable[[Tensor], Tensor],
        rows: Tensor,
        split: str,
        rng: torch.Generator,
        order: Tensor | None = None,
        on_probes: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum and its parts, on random images.

        Args:
            outputs: images ``(N, Q, C, H, W)`` -> outputs of the decoded networks ``(N, Q, c)``.
            rows: indices of their originals in the split ``(N,)``.
            split: "train" or "val".
            rng: draws the images.
            order: order of each network's outputs ``(N, c)``; by default as the originals'.
            on_probes: outputs of the originals on ``images`` ``(N, K, c)`` in this order, where they
                are not those that were computed once.

        """
        s, o, device = self.settings, self.originals[split], self.images.device
        on_task = o.on_task[rows].to(device)
        on_task = on_task if order is None else reorder(on_task, order)
        if on_probes is None:
            on_probes = o.on_probes[rows].to(device)
            on_probes = on_probes if order is None else reorder(on_probes, order)
        near = torch.randint(on_task.shape[1], (len(rows), s.own_queries), generator=rng)
        far = torch.randint(on_probes.shape[1], (len(rows), s.other_queries), generator=rng)
        queries = torch.cat([self._images(o.tasks[rows], near), self.images[far]], 1)
        original = torch.cat([_choose(on_task, near), _choose(on_probes.detach(), far)], 1)
        std = on_task.std(1, keepdim=True) + 1e-3
        parts = behaviour(outputs(queries), original, std, s.own_queries)
        total = parts["error"] + s.kl_weight * parts["kl"] + s.cosine_weight * parts["cosine"]
        return total, parts

    def _images(self, tasks: Tensor, index: Tensor) -> Tensor:
        """Train images ``(N, Q, C, H, W)`` of tasks ``(N,)`` by index, class after class ``(N, Q)``."""
        dataset = self.runner.dataset
        of_class = dataset.images["train"].shape[1]
        classes = dataset.classes[tasks].gather(1, index // of_class)
        return dataset.images_of("train", classes, index % of_class)


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
