"""Networks from the same information as draws, by gradients or by choice: are draws worth it?

* :class:`TrainAndStop`: train until the result is the requested one, from scratch or from the network
  of the nearest train task;
* :class:`RidgeHead`: the nearest task's network with an output layer in closed form;
* :class:`ZooChoice`: the best of all train members, in all orders of their outputs.

Every one is asked for the same results as draws, on some tasks of each split. Its one setting is
chosen for each target on some val tasks; a figure says how many lie at an edge of those tried. Baselines
that cost more are in :mod:`weightspace.evaluate.evidence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from weightspace.data.tasks import TEST_SPLITS, part_of
from weightspace.evaluate import metrics as m
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.finetuning import Trainer
from weightspace.evaluate.sampling import request_metrics
from weightspace.evaluate.stopping import TrainAndStop
from weightspace.evaluate.tuning import Baseline
from weightspace.evaluate.zoo_choice import RidgeHead, ZooChoice
from weightspace.progress import progress
from weightspace.rng import stream, torch_stream
from weightspace.sampling.requests import Grid
from weightspace.weights.spec import Networks, Weights, stack

TUNING_TASKS = 8  # val tasks that settings are chosen on
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # of Adam in training
PENALTIES = tuple(10.0**i for i in range(-7, 1))  # of ridge regression


def evaluate_trained(
    evaluation: Evaluation, known: Mapping[str, Baseline]
) -> dict[str, dict[str, float]]:
    """Metrics ``<baseline>_<metric>`` of val, on the tasks of the choice, and of each test split.

    Args:
        evaluation: requests, and the population.
        known: baselines by their names.

    """
    most = {"val": TUNING_TASKS} | dict.fromkeys(
        TEST_SPLITS, evaluation.params.evaluate.finetune_tasks
    )
    tasks = {split: some_tasks(evaluation, split, n) for split, n in most.items()}
    grids = {split: evaluation.grid(t) for split, t in tasks.items() if len(t)}
    out: dict[str, dict[str, float]] = {split: {} for split in grids}
    with progress("baselines", len(known)) as bar:
        for name, baseline in known.items() if grids else ():
            for split, metrics in _measure(evaluation, baseline, grids).items():
                out[split] |= m.prefixed(name, metrics)
            bar.advance(note=name)
    return out


def some_tasks(evaluation: Evaluation, split: str, most: int) -> np.ndarray:
    """At most so many tasks of a split, as many of each class set as can be, in rising order.

    Args:
        evaluation: has the tasks.
        split: of the tasks.
        most: number of tasks.

    """
    tasks = stream(evaluation.params.seed, "baselines", split).permutation(evaluation.tasks(split))
    if not len(tasks):
        return tasks
    rank = pd.Series(evaluation.class_sets(tasks)).groupby(evaluation.class_sets(tasks)).cumcount()
    return np.sort(tasks[rank.argsort(kind="stable").to_numpy()[:most]])


def _measure(
    evaluation: Evaluation, baseline: Baseline, grids: Mapping[str, Grid]
) -> dict[str, dict[str, float]]:
    """Metrics of one baseline on each split, its setting chosen on val.

    Args:
        evaluation: says what R is.
        baseline: gives networks.
        grids: split -> requests, of val too.

    """
    if baseline.top_only:
        best = evaluation.result.best(evaluation.sampler.shared_encoder.bounds)
        grids = {split: replace(grid, targets=np.array([best])) for split, grid in grids.items()}
    (chosen, on_val), about = baseline.tune(grids["val"]), {}
    if len(baseline.settings) > 1:
        about[f"{baseline.setting}_low"] = float(chosen.min())
        about[f"{baseline.setting}_high"] = float(chosen.max())
        about[f"{baseline.setting}_at_edge"] = baseline.at_edge(chosen)
    out, params = {}, evaluation.params
    for split, grid in grids.items():
        val = split == "val"
        outcome = on_val if val else baseline(grid, chosen, part_of(split))
        metrics = request_metrics(
            grid,
            outcome.achieved,
            evaluation.result,
            0 if val else params.evaluate.bootstrap,
            params.seed,
            evaluation.class_sets(grid.tasks),
        )
        cost = {
            "image_gradients": float(np.mean(outcome.image_gradients)),
            "tasks": len(grid.tasks),
        }
        out[split] = metrics | about | cost
    return out


def baselines(evaluation: Evaluation) -> dict[str, Baseline]:
    """Every baseline by its name in the metrics."""
    runner, result = evaluation.runner, evaluation.result
    trainer = Trainer(runner, evaluation.params.zoo.batch_size, evaluation.params.seed)
    scratch, nearest = (partial(start, evaluation) for start in (fresh, nearest_task))
    return {
        "train_and_stop": Baseline(TrainAndStop(trainer, result, scratch), RATES),
        "train_and_stop_nearest_task": Baseline(TrainAndStop(trainer, result, nearest), RATES),
        "best_of_zoo": Baseline(
            ZooChoice(runner, result, evaluation.train_members.networks), (0.0,)
        ),
        "ridge_head": Baseline(
            RidgeHead(runner, result, nearest), PENALTIES, setting="penalty", top_only=True
        ),
    }


def fresh(evaluation: Evaluation, grid: Grid) -> Weights:
    """An untrained network ``(T, *shape)`` for each task of a grid.

    Args:
        evaluation: has the architecture.
        grid: T x K requests.

    """
    seed, net = evaluation.params.seed, evaluation.sampler.net
    return stack(
        [net.init(torch_stream(seed, "baselines", "init", int(task))) for task in grid.tasks]
    )


def nearest_task(evaluation: Evaluation, grid: Grid) -> Networks:
    """For each request of a grid the member of the nearest train task whose result is nearest.

    Args:
        evaluation: has the population, and embeds tasks.
        grid: T x K requests.

    """
    condition = grid.condition(evaluation.runner.dataset)
    return evaluation.train_members.nearest_task(evaluation.sampler.embed(condition), grid.target)
