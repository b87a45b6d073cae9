"""Train many runs at once: one gradient for all of them, nothing else in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from weightspace.nets.base import Net
from weightspace.weights.spec import Spec, Weights, take, to_device
from weightspace.zoo.plan import Run

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam, Kingma and Ba (2015), arXiv 1412.6980
# Runs side by side: as many as keep this many values between layers. On a CPU they then stay near
# its caches (benchmarks/zoo_training.py: a CNN is fastest with 12 to 32, an MLP with 96).
ACTIVATIONS = 1_400_000
# A GPU's memory in bytes over the number of these values: a step holds about five times as many
MEMORY = 40
FEWEST = {"cpu": 4, "cuda": 1}  # at least, for what a step costs however few there are
RUNS = {"cpu": 128, "cuda": 4096}  # at most

# Of weights, by gradient, state, step and momentum, in place
Update = Callable[[Tensor, Tensor, Weights, int, float], None]


def train_runs(
    net: Net,
    runs: Sequence[Run],
    init: Weights,
    images: Tensor,
    classes: Tensor,
    batches: Tensor,
    momentum: float,
) -> Weights:
    """Train R networks side by side, where the images are, and keep S snapshots of each.

    Args:
        net: the architecture.
        runs: R plans.
        init: initial weights ``(R, *shape)``, buffers included.
        images: train images of K classes ``(K, n, C, H, W)``, which the runs share.
        classes: those of each run ``(R, c)``: its image i is image ``i % n`` of class ``i // n``.
        batches: images of every step ``(R, steps, B)``, padded to the longest run.
        momentum: momentum of SGD.

    Returns:
        Weights ``(R, S, *shape)`` where ``init`` is, with the running statistics of each snapshot.

    """
    size = _block_size(net, batches.shape[2], images.device)
    first = init[net.spec.names[0]]
    snapshots = first.new_empty(len(runs), len(runs[0].steps), net.spec.numel)
    for rows in _blocks(runs, size):
        block = [runs[i] for i in rows]
        start = to_device(take(init, rows.to(first.device)), images.device)
        steps = _steps(classes[rows], batches[rows], images)
        trained = _train_block(net, block, start, steps, momentum).to(first.device)
        if len(runs) == 1:  # snapshots of one large network lie in memory once
            snapshots = trained
        else:
            snapshots[rows.to(first.device)] = trained
    flat = net.spec.unflatten(snapshots.flatten(0, 1))
    return {name: w.unflatten(0, snapshots.shape[:2]) for name, w in flat.items()}


def _block_size(net: Net, batch: int, device: torch.device) -> int:
    """Runs that are trained side by side, the fewer the larger their layers are."""
    values = ACTIVATIONS
    if torch.cuda.is_available() and device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        values = int(memory * torch.cuda.get_per_process_memory_fraction()) // MEMORY
    fitting = values // (net.activations * batch)
    return int(min(max(fitting, FEWEST[device.type]), RUNS[device.type]))


def _blocks(runs: Sequence[Run], size: int) -> list[Tensor]:
    """Rows of the runs that are trained together: of about the same length, by optimiser."""
    order = torch.tensor(sorted(range(len(runs)), key=lambda i: runs[i].steps[-1]))
    blocks = order.chunk(-(-len(runs) // size))
    return [torch.tensor(sorted(b.tolist(), key=lambda i: runs[i].optimizer)) for b in blocks]


@dataclass(frozen=True)
class _Steps:
    """Batches of A runs.

    Attributes:
        images: of all runs ``(L, C, H, W)``.
        index: of the image ``(steps, A, B)``.
        labels: ``(steps, A, B)``.

    """

    images: Tensor
    index: Tensor
    labels: Tensor

    def batch(self, step: int, active: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(a, B, C, H, W)`` and labels ``(a, B)`` of some runs in a step, from 1 on."""
        index = self.index[step - 1].index_select(0, active)
        images = self.images.index_select(0, index.flatten()).unflatten(0, index.shape)
        return images, self.labels[step - 1].index_select(0, active)


def _steps(classes: Tensor, batches: Tensor, images: Tensor) -> _Steps:
    """The steps of A runs. Arguments are those of :func:`train_runs`."""
    labels = (batches // images.shape[1]).transpose(0, 1).contiguous()  # (steps, A, B)
    chosen = classes[torch.arange(len(classes))[:, None], labels]
    index = chosen * images.shape[1] + batches.transpose(0, 1) % images.shape[1]
    return _Steps(images.flatten(0, 1), index.to(images.device), labels.to(images.device))


def _train_block(
    net: Net, runs: Sequence[Run], init: Weights, steps: _Steps, momentum: float
) -> Tensor:
    """Train runs sorted by optimiser; snapshots ``(R, S, numel)`` in the order of the spec.

    All parameters lie in one matrix ``(A, P)`` of the A runs that have steps left, so that a step
    of an optimiser is a handful of operations in place on neighbouring rows.

    Args:
        net: the architecture.
        runs: R plans.
        init: initial weights ``(R, *shape)``.
        steps: batches.
        momentum: momentum of SGD.

    """
    learned = net.spec.parameters
    flat = learned.flatten(init)
    buffers = {k: w.clone() for k, w in init.items() if k not in learned.names}
    state = {
        "rate": torch.tensor([[r.lr] for r in runs], dtype=flat.dtype, device=flat.device),
        "decay": torch.tensor(
            [[r.weight_decay] for r in runs], dtype=flat.dtype, device=flat.device
        ),
        "first": torch.zeros_like(flat),
        "second": torch.zeros_like(flat),
    }
    snapshots = flat.new_empty(len(runs), len(runs[0].steps), net.spec.numel)
    due = _due(runs)
    active = torch.arange(len(runs), device=flat.device)
    updates = _updates(runs)
    for step in range(1, max(due) + 1):
        g = _gradient(net, learned, flat, buffers, *steps.batch(step, active))
        g.addcmul_(state["decay"], flat)
        for update, part in updates:
            update(flat[part], g[part], take(state, part), step, momentum)
        if step not in due:
            continue
        rows, snapshot, left = (index.to(flat.device) for index in due[step])
        weights = take(learned.unflatten(flat) | buffers, rows)
        snapshots[active[rows], snapshot] = net.spec.flatten(weights)
        if len(left) < len(active):  # drop finished runs
            active, flat = active[left], flat[left]
            buffers, state = take(buffers, left), take(state, left)
            updates = _updates([runs[i] for i in active.tolist()])
    return snapshots


def _updates(runs: Sequence[Run]) -> list[tuple[Update, slice]]:
    """The update of each optimiser, and its rows among runs sorted by optimiser."""
    out = []
    start = 0
    for name, group in groupby(run.optimizer for run in runs):
        stop = start + len(list(group))
        out.append((UPDATES[name], slice(start, stop)))
        start = stop
    return out


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
UPDATES: dict[str, Update] = {
    "adam": _adam,
    "sgd": _sgd,
}
