"""Run, measure and train networks on a task made of given images."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from weightspace.data.dataset import task_batch
from weightspace.data.images import GivenTask
from weightspace.nets.base import Net
from weightspace.progress import progress
from weightspace.rng import torch_stream
from weightspace.weights.spec import Weights, blocks
from weightspace.zoo.result import accuracies, losses

PAIRS_AT_ONCE = 20_000  # network and image pairs run together; bounds the memory
TUNE_BATCH, TUNE_LR = 32, 1e-3  # of fine-tuning with Adam
FIRST = torch.zeros(1, dtype=torch.long)  # number of the only task


@torch.no_grad()
def outputs(net: Net, weights: Weights, task: GivenTask, part: str) -> Tensor:
    """Outputs ``(N, B, c)`` of N networks on the images of a part, class after class."""
    images, _ = task_batch(task.dataset, FIRST, part)
    size = max(1, PAIRS_AT_ONCE // len(next(iter(weights.values()))))
    return torch.cat([net.outputs(weights, block) for block in images[0].split(size)], 1)


def reestimated(net: Net, weights: Weights, task: GivenTask) -> Weights:
    """N networks with the running statistics that all train images of a task give, as one batch."""
    images, _ = task_batch(task.dataset, FIRST, "train")
    size = max(1, PAIRS_AT_ONCE // images.shape[1])
    parts = [net.reestimate(block, images[0]) for block in blocks(weights, size)]
    return {name: torch.cat([part[name] for part in parts]) for name in net.spec.names}


def fine_tune(net: Net, weights: Weights, task: GivenTask, epochs: int, seed: int) -> Weights:
    """Train networks further on the train images of a task, with Adam, all in the same batches.

    Adam works entry by entry, so one optimiser over stacked weights trains each network alone.

    Args:
        net: the architecture.
        weights: networks ``(N, *shape)``; buffers stay as they are.
        task: the images.
        epochs: passes over the train images.
        seed: of the order of the images.

    """
    images, labels = task_batch(task.dataset, FIRST, "train")
    trained = [t.name for t in net.spec.tensors if t.role == "parameter"]
    tuned = weights | {k: weights[k].clone().requires_grad_() for k in trained}
    optimizer = torch.optim.Adam([tuned[k] for k in trained], lr=TUNE_LR)
    rng = torch_stream(seed, "fine-tune")
    with progress("fine-tune", epochs) as bar:
        for _ in range(epochs):
            for batch in torch.randperm(len(labels), generator=rng).split(TUNE_BATCH):
                y = net.outputs(tuned, images[0, batch])  # (N, B, c)
                wanted = labels[batch].expand(len(y), -1)
                each = torch.nn.functional.cross_entropy(
                    y.transpose(1, 2), wanted, reduction="none"
                )
                optimizer.zero_grad()
                each.mean(1).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            bar.advance()
    return {k: w.detach() for k, w in tuned.items()}


def measure(net: Net, weights: Weights, task: GivenTask, parts: Sequence[str] = ()) -> pd.DataFrame:
    """Accuracy and loss (nats) of N networks on parts of a task, by default all, a row each."""
    out = {}
    for part in parts or task.parts:
        y = outputs(net, weights, task, part)
        out[f"{part}_accuracy"], out[f"{part}_loss"] = accuracies(y), losses(y)
    return pd.DataFrame({name: value.numpy() for name, value in out.items()})
