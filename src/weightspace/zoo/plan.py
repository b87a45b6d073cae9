"""What each run of a zoo does: its task, optimiser, rates, length and snapshots.

Every run draws from its own stream, so a larger zoo contains the smaller one unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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


def plan_run(run: int, settings: ZooSettings, tasks: int, steps_per_epoch: int, seed: int) -> Run:
    """Draw the settings of one run.

    Args:
        run: index of the run.
        settings: section ``zoo`` of params.yaml.
        tasks: number of tasks; every cycle of that many runs trains each task once.
        steps_per_epoch: optimiser steps per epoch.
        seed: root seed.

    """
    cycle, place = divmod(run, tasks)
    task = int(stream(seed, "zoo", "cycle", cycle).permutation(tasks)[place])
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
    place = np.arange(count) / (count - 1)
    place[1:-1] += rng.uniform(-0.4, 0.4, count - 2) / (count - 1)
    steps = np.round(first * (last / first) ** place).astype(int).tolist()
    for i in range(1, count):  # strictly increasing ...
        steps[i] = max(steps[i], steps[i - 1] + 1)
    steps[-1] = last
    for i in range(count - 2, -1, -1):  # ... and inside the run
        steps[i] = min(steps[i], steps[i + 1] - 1)
    return tuple(steps)
