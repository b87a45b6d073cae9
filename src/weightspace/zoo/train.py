"""Train many runs at once: one vectorised gradient for all, each with its own everything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from weightspace.networks import Net
from weightspace.spec import Weights, take
from weightspace.zoo.plan import Run

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba (2015), arXiv 1412.6980


def train_runs(
    net: Net,
    runs: Sequence[Run],
    init: Weights,
    images: Tensor,
    labels: Tensor,
    batches: Tensor,
    momentum: float,
) -> Weights:
    """Train R networks side by side and keep S snapshots of each.

    Adam and SGD share one update, with per-run vectors where they differ:
    ``m <- a m + c g``, ``v <- b2 v + (1 - b2) g^2``, step ``m`` or ``m̂ / (sqrt(v̂) + eps)``; weight
    decay is added to the gradient, as in torch.optim.Adam and torch.optim.SGD.

    Args:
        net: the architecture.
        runs: R plans.
        init: initial weights ``(R, *shape)``.
        images: train images of each run ``(R, n, C, H, W)``.
        labels: their labels ``(n,)``, the same for all runs.
        batches: image index of every step ``(R, steps, B)``, padded to the longest run.
        momentum: momentum of SGD.

    Returns:
        Weights ``(R, S, *shape)``.

    """
    where, kind = images.device, images.dtype
    adam = torch.tensor([r.optimizer == "adam" for r in runs], device=where)
    rate = torch.tensor([r.lr for r in runs], device=where, dtype=kind)
    decay = torch.tensor([r.weight_decay for r in runs], device=where, dtype=kind)
    steps = torch.tensor([r.steps for r in runs])
    gradient = vmap(grad(_loss, argnums=1), in_dims=(None, 0, 0, 0))
    kept = {k: w.new_zeros(len(runs), steps.shape[1], *w.shape[1:]) for k, w in init.items()}
    active = torch.arange(len(runs))
    weights = init
    first = {k: torch.zeros_like(w) for k, w in init.items()}
    second = {k: torch.zeros_like(w) for k, w in init.items()}
    for step in range(1, int(steps.max()) + 1):
        index = batches[active, step - 1].to(images.device)  # (A, B)
        here = active.to(images.device)
        grads = gradient(net, weights, images[here[:, None], index], labels[index])
        update = _Update(adam[here], rate[here], decay[here], momentum, step)
        weights = {k: update(w, grads[k], first[k], second[k]) for k, w in weights.items()}
        due, which = (steps[active] == step).nonzero(as_tuple=True)
        if len(due):
            for k, w in weights.items():
                kept[k][active[due], which] = w[due]
            going = (steps[active, -1] > step).nonzero()[:, 0]
            if len(going) < len(active):  # drop finished runs
                active = active[going]
                weights, first, second = (take(t, going) for t in (weights, first, second))
    return kept


def _loss(net: Net, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(net.forward(weights, images), labels)


class _Update:
    """One optimiser step for all runs; moments ``m`` and ``v`` are changed in place."""

    def __init__(
        self, adam: Tensor, rate: Tensor, decay: Tensor, momentum: float, step: int
    ) -> None:
        self.adam, self.rate, self.decay = adam, rate, decay
        one = torch.ones_like(rate)
        self.keep = torch.where(adam, BETA1 * one, momentum * one)
        self.gain = torch.where(adam, (1 - BETA1) * one, one)
        self.correct1, self.correct2 = 1 - BETA1**step, 1 - BETA2**step

    def __call__(self, w: Tensor, g: Tensor, m: Tensor, v: Tensor) -> Tensor:
        def per_run(x: Tensor) -> Tensor:
            return x.view(-1, *[1] * (w.ndim - 1))

        g = g + per_run(self.decay) * w
        m.mul_(per_run(self.keep)).add_(per_run(self.gain) * g)
        v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
        scaled = (m / self.correct1) / ((v / self.correct2).sqrt() + EPS)
        return w - per_run(self.rate) * torch.where(per_run(self.adam), scaled, m)


def measure(net: Net, weights: Weights, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy and accuracy of N networks, each on its own images.

    Args:
        net: the architecture.
        weights: ``(N, *shape)``.
        images: ``(N, B, C, H, W)``.
        labels: ``(B,)``, the same for all.

    Returns:
        Loss ``(N,)`` in nats and accuracy ``(N,)`` in [0, 1].

    """
    with torch.no_grad():
        outputs = net.outputs(weights, images)  # (N, B, c)
        log_p = outputs.log_softmax(-1)
        loss = -log_p.gather(-1, labels.expand(outputs.shape[:2])[..., None])[..., 0].mean(1)
        accuracy = (outputs.argmax(-1) == labels).to(outputs.dtype).mean(1)
    return loss, accuracy
