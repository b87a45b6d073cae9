"""What costs too much for every run of the pipeline: the gradient steps of a guided draw, elsewhere and longer.

* :func:`step_baselines`: as many steps on weights, in subspaces of them, and on latents;
* :func:`against_steps`: how near results come to the targets after more or fewer steps on latents.

Rates are chosen on val tasks: those of the first for each target, as in :mod:`weightspace.evaluate.trained`,
those of the second for each start and number of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from weightspace.data.tasks import part_of
from weightspace.evaluate import weight_steps
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.sampling import request_metrics
from weightspace.evaluate.trained import fresh, nearest_task, some_tasks
from weightspace.evaluate.tuning import Baseline
from weightspace.evaluate.weight_steps import WeightSteps
from weightspace.progress import progress
from weightspace.sampling.requests import Grid
from weightspace.weights.spec import take

STEPS = (0, 5, 20, 100, 400)
TASKS = {"val": 4, "test": 18}  # that rates are chosen on, and that count


def step_baselines(evaluation: Evaluation) -> dict[str, Baseline]:
    """Baselines ``steps_<start>``: the steps of a guided draw from other starts, by their names."""
    raw = weight_steps.all_weights(evaluation)

    def random(grid: Grid) -> Tensor:
        return raw.encode(fresh(evaluation, grid)).repeat_interleave(
            len(grid) // len(grid.tasks), 0
        )

    def nearest(grid: Grid) -> Tensor:
        return raw.encode(take(nearest_task(evaluation, grid), slice(None)))

    others = weight_steps.from_reference(evaluation) | weight_steps.from_latents(evaluation)
    starts = {
        "random": (raw, random, weight_steps.RATES),
        "nearest_task": (raw, nearest, weight_steps.RATES),
        **others,
    }
    return {
        f"steps_{name}": Baseline(WeightSteps(evaluation, decoder, start), rates)
        for name, (decoder, start, rates) in starts.items()
    }


def against_steps(
    evaluation: Evaluation, split: str, numbers: Sequence[int] = STEPS
) -> list[dict[str, float | str]]:
    """Results of guided latents against the number of their steps: rows of ``start``, ``steps`` and metrics.

    Args:
        evaluation: what draws and guides.
        split: test split of the tasks.
        numbers: of steps.

    """
    val, tasks = (
        evaluation.grid(some_tasks(evaluation, s, n))
        for s, n in zip(("val", split), TASKS.values(), strict=True)
    )
    rows: list[dict[str, float | str]] = []
    starts = weight_steps.from_latents(evaluation)
    with progress("against steps", len(starts) * len(numbers)) as bar:
        for name, (decoder, start, rates) in starts.items():
            for steps in numbers:
                method = WeightSteps(_with_steps(evaluation, steps), decoder, start)
                rate = _best_rate(method, val, rates) if steps else rates[0]
                outcome = method(tasks, rate, part_of(split))
                metrics = request_metrics(tasks, outcome.achieved, evaluation.result)
                cost = float(np.mean(outcome.image_gradients))
                about: dict[str, float | str] = {"start": name, "steps": steps}
                about |= {"image_gradients": cost} | ({"rate": rate} if steps else {})
                rows.append(about | dict[str, float | str](metrics))
                bar.advance(note=f"{name}, {steps} steps")
    return rows


def _best_rate(method: WeightSteps, grid: Grid, rates: Sequence[float]) -> float:
    """The rate of the smallest mean squared error over all targets on val images.

    Args:
        method: takes the steps.
        grid: requests for val tasks.
        rates: to choose from.

    """
    errors = [np.square(method(grid, r, "val").achieved - grid.target).mean() for r in rates]
    return rates[int(np.nan_to_num(errors, nan=np.inf).argmin())]


def _with_steps(evaluation: Evaluation, steps: int) -> Evaluation:
    """The same with another number of gradient steps after a draw."""
    params = evaluation.params
    guidance = params.guidance.model_copy(update={"sampling_steps": steps})
    return replace(evaluation, params=params.model_copy(update={"guidance": guidance}))
