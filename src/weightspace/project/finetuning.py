"""Run, measure and train networks on a task made of given images."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from weightspace.data.dataset import class_labels
from weightspace.data.images import GivenTask
from weightspace.nets.base import Net
from weightspace.progress import progress
from weightspace.rng import torch_stream
from weightspace.weights.spec import Weights, blocks, to_device
from weightspace.zoo.result import accuracies, losses

PAIRS_AT_ONCE = 20_000  # network and image pairs run together, to bound the memory
TUNE_BATCH, TUNE_LR = 32, 1e-3  # of fine-tuning with Adam


@torch.no_grad()
def outputs(net: Net, weights: Weights, task: GivenTask, part: str) -> Tensor:
    """Outputs ``(N, B, c)`` of N networks on the images of a part, class after class.

    Args:
        net: the architecture.
        weights: networks ``(N, *shape)``.
        task: the images.
        part: "train" or "test", as far as the task has it.

    """
    images = task.batch(part)
    weights = to_device(weights, images.device)
    size = max(1, PAIRS_AT_ONCE // len(next(iter(weights.values()))))
    return torch.cat([net.outputs(weights, block) for block in images.split(size)], 1).cpu()


def reestimated(net: Net, weights: Weights, task: GivenTask) -> Weights:
    """N networks with the running statistics that all train images of a task give, as one batch.

    Args:
        net: the architecture.
        weights: networks ``(N, *shape)``.
        task: the images.

    """
    images = task.batch("train")
    parts = [
        net.reestimate(to_device(block, images.device), images)
        for block in blocks(weights, PAIRS_AT_ONCE // len(images) or 1)
    ]
    return {name: torch.cat([part[name] for part in parts]).cpu() for name in net.spec.names}


def fine_tune(net: Net, weights: Weights, task: GivenTask, epochs: int, seed: int) -> Weights:
    """Train networks further on the train images of a task, with Adam, all in the same batches.

    Adam works entry by entry, so one optimiser over stacked weights trains each network alone.

    Args:
        net: the architecture.
        weights: networks ``(N, *shape)``; buffers stay as they are.
        task: the images.
        epochs: passes over the train images, 1 or more.
        seed: of the order of the images.

    """
    images = task.batch("train")
    labels = class_labels(len(task.classes), task.images_per_class["train"]).to(images.device)
    weights = to_device(weights, images.device)
    trained = [t.name for t in net.spec.tensors if t.role == "parameter"]
    tuned = weights | {k: weights[k].clone().requires_grad_() for k in trained}
    optimizer = torch.optim.Adam([tuned[k] for k in trained], lr=TUNE_LR)
    rng = torch_stream(seed, "fine-tune")
    with progress("fine-tune", epochs) as bar:
        for _ in range(epochs):
            for batch in torch.randperm(len(labels), generator=rng).split(TUNE_BATCH):
                y = net.outputs(tuned, images[batch])  # (N, B, c)
                target = labels[batch].expand(len(y), -1)
                loss = torch.nn.functional.cross_entropy(y.mT, target, reduction="none")  # (N, B)
                optimizer.zero_grad()
                loss.mean(1).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            bar.advance()
    return {k: w.detach().cpu() for k, w in tuned.items()}


def measure(net: Net, weights: Weights, task: GivenTask, parts: Sequence[str] = ()) -> pd.DataFrame:
    """Accuracy and loss (nats) of N networks on parts of a task, a row each.

    Args:
        net: the architecture.
        weights: networks ``(N, *shape)``.
        task: the images.
        parts: "train", "test"; by default all that the task has.

    """
    out = {}
    for part in parts or task.parts:
        y = outputs(net, weights, task, part)
        out[f"{part}_accuracy"], out[f"{part}_loss"] = accuracies(y), losses(y)
    return pd.DataFrame({name: value.numpy() for name, value in out.items()})
