"""Train many runs at once: one gradient for all of them, nothing else in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from weightspace.nets.base import Net
from weightspace.weights.spec import Spec, Weights, take
from weightspace.zoo.plan import Run

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba (2015), arXiv 1412.6980
# Runs side by side: as many as keep this many values between layers. On a CPU they then stay near
# its caches (benchmarks/zoo_training.py: a CNN is fastest with 12 to 32, an MLP with 96); on a GPU
# they fit its memory, which holds about five times as much during a step.
ACTIVATIONS = {"cpu": 1_400_000, "cuda": 1_000_000_000}
RUNS = {"cpu": 128, "cuda": 4096}  # at most


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
    size = _block_size(net, batches.shape[2], images.device.type)
    first = init[net.spec.names[0]]
    snapshots = first.new_empty(len(runs), len(runs[0].steps), net.spec.numel)
    for rows in _blocks(runs, size):
        block, index = [runs[i] for i in rows], rows.to(images.device)
        snapshots[index] = _train_block(
            net, block, take(init, index), images[index], labels, batches[rows], momentum
        )
    flat = net.spec.unflatten(snapshots.flatten(0, 1))
    return {name: w.unflatten(0, snapshots.shape[:2]) for name, w in flat.items()}


def _block_size(net: Net, batch: int, device: str) -> int:
    """Runs that are trained side by side, the fewer the larger their layers are."""
    fitting = ACTIVATIONS[device] // (net.activations * batch)
    return int(min(max(fitting, 1), RUNS[device]))


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

    All parameters lie in one matrix ``(A, P)`` of the A runs that have steps left, so that a step
    of the optimiser is a handful of operations in place. Arguments are those of :func:`train_runs`.
    """
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
    snapshots = flat.new_empty(len(runs), len(runs[0].steps), net.spec.numel)
    due = _due(runs)
    active = torch.arange(len(runs))
    # Image and label of every step (steps, A, B), the images in one table of all runs.
    samples = (batches + images.shape[1] * active[:, None, None]).transpose(0, 1).contiguous()
    answers = labels[batches.to(labels.device)].transpose(0, 1).contiguous()
    table = images.flatten(0, 1)
    for step in range(1, max(due) + 1):
        chosen = samples[step - 1].to(images.device)  # (A, B)
        x = table.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
        g = _gradient(net, learned, flat, buffers, x, answers[step - 1])
        update(flat, g.addcmul_(state["decay"], flat), state, step, momentum)
        if step not in due:
            continue
        rows, snapshot, left = due[step]
        weights = take(learned.unflatten(flat) | buffers, rows)
        snapshots[active[rows], snapshot] = net.spec.flatten(weights)
        if len(left) < len(active):  # drop finished runs
            active, flat = active[left], flat[left]
            buffers, state = take(buffers, left), take(state, left)
            samples, answers = samples[:, left], answers[:, left.to(answers.device)]
    return snapshots


def _due(runs: Sequence[Run]) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
    """Step -> rows that keep a snapshot, the index of that snapshot, rows that have steps left.

    Rows count the runs that had steps left before.
    """
    steps = torch.tensor([r.steps for r in runs])
    out = {}
    for step in steps.unique().tolist():  # in order
        rows, snapshot = (steps == step).nonzero(as_tuple=True)
        left = (steps[:, -1] > step).nonzero()[:, 0]
        out[step] = rows, snapshot, left
        steps = steps[left]
    return out


def _gradient(
    net: Net, learned: Spec, flat: Tensor, buffers: Weights, images: Tensor, labels: Tensor
) -> Tensor:
    """Gradient ``(A, P)`` of each run's mean cross entropy.

    Args:
        net: the architecture.
        learned: its parameters.
        flat: their values ``(A, P)``.
        buffers: ``(A, *shape)``, updated in place.
        images: ``(A, B, C, H, W)``.
        labels: ``(A, B)``.

    """

    def grad_of_loss(outputs: Tensor) -> Tensor:
        """Softmax minus one-hot labels ``(A, c, B)``."""
        error = outputs.softmax(1)
        error.scatter_add_(1, labels[:, None], error.new_full((), -1).expand_as(labels[:, None]))
        return error / labels.shape[1]

    return learned.flatten(net.gradient(learned.unflatten(flat) | buffers, images, grad_of_loss))


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
