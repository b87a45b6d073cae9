"""Train many runs at once: one gradient for all of them, each with its own everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.networks import Net
from weightspace.spec import Spec, Weights, take
from weightspace.zoo.plan import Run

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba (2015), arXiv 1412.6980
# Runs side by side on a CPU. With 16 an MLP loses a third of its speed; a CNN is as fast with 16 as
# with 96.
BLOCK = 64


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

    Args:
        net: the architecture.
        runs: R plans.
        init: initial weights ``(R, *shape)``, buffers included.
        images: train images of each run ``(R, n, C, H, W)``.
        labels: their labels ``(n,)``, the same for all runs.
        batches: image index of every step ``(R, steps, B)``, padded to the longest run.
        momentum: momentum of SGD.

    Returns:
        Weights ``(R, S, *shape)``, with the running statistics of each snapshot.

    """
    size = BLOCK if images.device.type == "cpu" else len(runs)
    first = init[net.spec.names[0]]
    kept = first.new_empty(len(runs), len(runs[0].steps), net.spec.numel)
    for rows in _blocks(runs, size):
        block, here = [runs[i] for i in rows], rows.to(images.device)
        kept[here] = _train_block(
            net, block, take(init, here), images[here], labels, batches[rows], momentum
        )
    flat = net.spec.unflatten(kept.flatten(0, 1))
    return {name: w.unflatten(0, kept.shape[:2]) for name, w in flat.items()}


def _blocks(runs: Sequence[Run], size: int) -> list[Tensor]:
    """Rows of the runs that are trained together: of one optimiser, of about the same length."""
    order = sorted(range(len(runs)), key=lambda i: (runs[i].optimizer, runs[i].steps[-1]))
    blocks: list[Tensor] = []
    for _, group in groupby(order, key=lambda i: runs[i].optimizer):
        rows = torch.tensor(list(group))
        blocks += rows.chunk(-(-len(rows) // size))
    return blocks


def _train_block(
    net: Net,
    runs: Sequence[Run],
    init: Weights,
    images: Tensor,
    labels: Tensor,
    batches: Tensor,
    momentum: float,
) -> Tensor:
    """Train runs of one optimiser; snapshots ``(R, S, numel)`` in the order of the spec.

    All parameters lie in one matrix ``(A, P)`` of the A runs that still go on, so that a step of
    the optimiser is a handful of operations in place.
    """
    steps = torch.tensor([r.steps for r in runs])
    learned = net.spec.parameters
    flat = learned.flatten(init)
    buffers = {k: w.clone() for k, w in init.items() if k not in learned.names}
    state = {
        "rate": flat.new_tensor([[r.lr] for r in runs]),
        "decay": flat.new_tensor([[r.weight_decay] for r in runs]),
        "first": torch.zeros_like(flat),
        "second": torch.zeros_like(flat),
    }
    update = UPDATES[runs[0].optimizer]
    kept = flat.new_empty(*steps.shape, net.spec.numel)
    active = torch.arange(len(runs))
    rows = batches + images.shape[1] * active[:, None, None]  # of one table of images for all runs
    table, targets = images.flatten(0, 1), F.one_hot(labels).to(flat).repeat(len(runs), 1)
    for step in range(1, int(steps.max()) + 1):
        chosen = rows[active, step - 1].to(images.device)  # (A, B)
        x, y = (
            t.index_select(0, chosen.flatten()).unflatten(0, chosen.shape) for t in (table, targets)
        )
        g = _gradient(net, learned, flat, buffers, x, y)
        update(flat, g.addcmul_(state["decay"], flat), state, step, momentum)
        due, which = (steps[active] == step).nonzero(as_tuple=True)
        if len(due):
            now = take(learned.unflatten(flat) | buffers, due)
            kept[active[due], which] = net.spec.flatten(now)
            going = (steps[active, -1] > step).nonzero()[:, 0]
            if len(going) < len(active):  # drop finished runs
                active, flat = active[going], flat[going]
                buffers, state = take(buffers, going), take(state, going)
    return kept


def _gradient(
    net: Net, learned: Spec, flat: Tensor, buffers: Weights, images: Tensor, targets: Tensor
) -> Tensor:
    """Gradient ``(A, P)`` of each run's mean cross entropy; ``buffers`` are updated in place.

    With respect to the outputs it is softmax minus one-hot ``targets`` ``(A, B, c)``.
    """
    flat = flat.detach().requires_grad_()
    outputs = net.training_outputs(learned.unflatten(flat) | buffers, images)  # (A, B, c)
    slope = outputs.detach().mT.softmax(1).sub_(targets.mT)  # (A, c, B): the fast axis
    return torch.autograd.grad(outputs, flat, slope.mT / images.shape[1])[0]  # runs share no term


def _adam(w: Tensor, g: Tensor, state: Weights, step: int, _: float) -> None:
    """``m̂ / (sqrt(v̂) + eps)``, with both corrections moved out of the tensors."""
    state["first"].lerp_(g, 1 - BETA1)
    state["second"].mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    root = (1 - BETA2**step) ** 0.5
    below = state["second"].sqrt().add_(EPS * root)
    w.addcdiv_(state["first"] * state["rate"], below, value=-root / (1 - BETA1**step))


def _sgd(w: Tensor, g: Tensor, state: Weights, _: int, momentum: float) -> None:
    """``m <- momentum m + g``, step ``m``."""
    state["first"].mul_(momentum).add_(g)
    w.addcmul_(state["first"], state["rate"], value=-1)


# Updates in place, as torch.optim; weight decay is already part of the gradient.
UPDATES: dict[str, Callable[[Tensor, Tensor, Weights, int, float], None]] = {
    "adam": _adam,
    "sgd": _sgd,
}


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
