"""What each run of a zoo does: its task, optimiser, rates, length, batches and snapshots.

Every run draws from a stream that no other run reads, so a larger zoo contains the smaller one
unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.data.dataset import Dataset
from weightspace.errors import problem
from weightspace.params import ZooSettings
from weightspace.rng import stream


@dataclass(frozen=True)
class Run:
    """One training run. ``steps`` are the optimiser steps after which a snapshot is kept."""

    run: int
    task: int
    optimizer: str
    lr: float
    weight_decay: float
    epochs: int
    steps: tuple[int, ...]


def plan_runs(
    indices: Iterable[int], dataset: Dataset, settings: ZooSettings, seed: int
) -> list[Run]:
    """Draw the settings of several runs.

    Args:
        indices: of the runs.
        dataset: images and tasks.
        settings: section ``zoo`` of params.yaml.
        seed: root seed.

    """
    per_epoch = steps_per_epoch(dataset, settings)
    return [plan_run(i, settings, len(dataset.tasks), per_epoch, seed) for i in indices]


def width_of(shard: int, widths: Sequence[float], seed: int) -> float:
    """Width of the runs of a shard; every cycle of as many shards as widths has each of them once.

    Args:
        shard: index of the shard.
        widths: ``zoo.widths``.
        seed: root seed.

    >>> sorted(width_of(shard, (1, 2, 4), seed=0) for shard in range(3))
    [1.0, 2.0, 4.0]

    """
    if len(widths) == 1:
        return widths[0]
    cycle, position = divmod(shard, len(widths))
    order = stream(seed, "zoo", "widths", cycle).permutation(len(widths))
    return float(widths[order[position]])


def steps_per_epoch(dataset: Dataset, settings: ZooSettings) -> int:
    """Optimiser steps per epoch; a last batch that is not full is left out."""
    per_task = dataset.images["train"].shape[1] * dataset.classes_per_task
    if per_task < settings.batch_size:
        raise problem(
            "a batch is larger than a task",
            where="params.yaml: zoo.batch_size",
            got=settings.batch_size,
            expected=f"at most {per_task} images",
        )
    return per_task // settings.batch_size


def plan_run(run: int, settings: ZooSettings, tasks: int, steps_per_epoch: int, seed: int) -> Run:
    """Draw the settings of one run.

    Args:
        run: index of the run.
        settings: section ``zoo`` of params.yaml.
        tasks: count of tasks; every cycle of that many runs trains each task once.
        steps_per_epoch: optimiser steps per epoch.
        seed: root seed.

    >>> settings = ZooSettings.model_construct(
    ...     optimizers=["sgd"], sgd_lr=(0.01, 0.1), weight_decay=(1e-5, 1e-3), epochs=(2, 9),
    ...     epochs_drawn="uniform", snapshots=3, first_step=(1, 4), first_unit="steps",
    ... )
    >>> run = plan_run(0, settings, tasks=6, steps_per_epoch=10, seed=0)
    >>> run.steps[-1] == 10 * run.epochs  # the last snapshot is the end of the run
    True

    """
    cycle, position = divmod(run, tasks)
    task = int(stream(seed, "zoo", "cycle", cycle).permutation(tasks)[position])
    rng = stream(seed, "zoo", run, "settings")
    optimizer = str(rng.choice(settings.optimizers))
    lr = _log_uniform(settings.adam_lr if optimizer == "adam" else settings.sgd_lr, rng)
    weight_decay = _log_uniform(settings.weight_decay, rng)
    epochs = _epochs(settings, rng)
    steps = _snapshot_steps(epochs * steps_per_epoch, steps_per_epoch, settings, rng)
    return Run(run, task, optimizer, lr, weight_decay, epochs, steps)


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    low, high = np.log(bounds)
    return float(np.exp(rng.uniform(low, high)))


def _epochs(settings: ZooSettings, rng: np.random.Generator) -> int:
    """Length of a run: uniform over a range, or normal and clipped to it."""
    low, high = settings.epochs
    if settings.epochs_drawn == "uniform":
        return int(rng.integers(low, high, endpoint=True))
    return int(np.clip(np.round(rng.normal(*settings.epochs_drawn)), low, high))


def _snapshot_steps(
    last: int, steps_per_epoch: int, settings: ZooSettings, rng: np.random.Generator
) -> tuple[int, ...]:
    """First snapshot early, last at the end, the others between them on a jittered log scale.

    Accuracy rises with the logarithm of the steps, so this spreads the members over its range.

    Args:
        last: steps of the run.
        steps_per_epoch: optimiser steps per epoch.
        settings: section ``zoo`` of params.yaml.
        rng: random stream of the run.

    """
    count = settings.snapshots
    if last < count:
        raise problem(
            "a run has fewer steps than snapshots",
            where="params.yaml: zoo.snapshots",
            got=f"{last} steps, {count} snapshots",
            expected="at least one step per snapshot",
            do="raise zoo.epochs or lower zoo.snapshots or zoo.batch_size",
        )
    first = int(rng.integers(settings.first_step[0], settings.first_step[1], endpoint=True))
    if settings.first_unit == "epochs":
        first *= steps_per_epoch
    fraction = np.arange(count) / (count - 1)
    fraction[1:-1] += rng.uniform(-0.4, 0.4, count - 2) / (count - 1)
    steps = np.round(first * (last / first) ** fraction).astype(int).tolist()
    for i in range(1, count):  # strictly increasing ...
        steps[i] = max(steps[i], steps[i - 1] + 1)
    steps[-1] = last
    for i in range(count - 2, -1, -1):  # ... and inside the run
        steps[i] = min(steps[i], steps[i + 1] - 1)
    return tuple(steps)


def draw_batches(runs: Sequence[Run], images: int, size: int, seed: int) -> Tensor:
    """Order of the images in every step of every run: ``(R, steps, B)``, zero after a run's end.

    Args:
        runs: R plans.
        images: train images of a task.
        size: images of a batch.
        seed: root seed.

    """
    per_epoch = images // size
    out = np.zeros((len(runs), max(run.epochs for run in runs) * per_epoch, size), np.int64)
    for row, run in zip(out, runs, strict=True):
        rng = stream(seed, "zoo", run.run, "batches")
        for epoch in range(run.epochs):
            order = rng.permutation(images)[: per_epoch * size]
            row[epoch * per_epoch : (epoch + 1) * per_epoch] = order.reshape(per_epoch, size)
    return torch.from_numpy(out)
