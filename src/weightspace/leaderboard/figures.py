"""Figures of a method on a task of each family, by the functions that the pipeline's own come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.data.tasks import part_of
from weightspace.evaluate import metrics as m
from weightspace.evaluate.baselines import measured
from weightspace.evaluate.distribution import told_apart
from weightspace.evaluate.novelty import DRAWS, Comparison, Finished, distances, member_overlap
from weightspace.evaluate.properties import (
    Features,
    class_set_metrics,
    predictions,
    score,
    target,
    varying_targets,
)
from weightspace.evaluate.reconstruction import Reconstruction, reconstruction_metrics
from weightspace.leaderboard.method import Method
from weightspace.leaderboard.named import TaskData
from weightspace.leaderboard.schema import Figure
from weightspace.rng import stream
from weightspace.sampling.sampler import Condition
from weightspace.weights.spec import BLOCK, Population, Weights, block_size, fill_together, take
from weightspace.zoo.result import accuracies

READING = "latent"


def reconstruction(data: TaskData, method: Method) -> dict[str, float]:
    """How the decoded latents of held-out members behave, in one pass, beside the originals."""
    split, runner, settings = data.task.split, data.runner, data.settings
    members = data.zoo.select(split)
    tasks, networks = members["task"].to_numpy(), data.zoo.networks(members)
    part, inputs = part_of(split), settings.random_inputs

    def compute(rows: slice) -> list[Tensor]:
        weights = take(networks, rows)
        both: tuple[Weights, Weights] = (weights, method.rebuilt(weights))
        real = [runner.outputs(w, tasks[rows], part) for w in both]
        return [*real, *(runner.random_outputs(w, inputs, data.seed) for w in both)]

    real = [runner.room(len(tasks), part) for _ in range(2)]
    noise = [torch.empty(len(tasks), inputs, runner.classes) for _ in range(2)]
    fill_together([*real, *noise], block_size(data.zoo.spec, BLOCK), compute)
    rebuilt = Reconstruction(members, real[0], real[1], noise[0], noise[1], real[1])
    out = reconstruction_metrics(rebuilt, settings, data.seed)
    out = {k: v for k, v in out.items() if not k.startswith("encoder_only_")}
    return out | _more_intervals(data, rebuilt)


def _more_intervals(data: TaskData, rebuilt: Reconstruction) -> dict[str, float]:
    """Bounds of figures of which the pipeline has none: of finished networks, and of accuracies."""
    members = rebuilt.members
    finished = (members["snapshot"] == members["snapshot"].max()).to_numpy()
    pair = rebuilt.original, rebuilt.rebuilt
    before, after = (accuracies(outputs).numpy() for outputs in pair)
    late = m.agreement(*pair).numpy()[finished]
    sets = members["class_set"].to_numpy()
    of_all = intervals(
        data, {"accuracy_r2_identity": lambda i: m.r2_identity(before[i], after[i])}, sets
    )
    return of_all | intervals(
        data, {"agreement_mean_late": lambda i: float(late[i].mean())}, sets[finished]
    )


def sampling(data: TaskData, method: Method) -> dict[str, float]:
    """How draws meet the requests, how alike they are, and how well they are told from members."""
    split = data.task.split
    grid = data.grid(data.tasks(split))
    condition = grid.condition(data.runner.dataset)
    networks = method.draws(condition, data.settings.draws, data.seed, "requests", split)
    out = measured(data, grid, networks, split, members=True)

    def draw(requests: Condition) -> Population:
        return method.draws(requests, 1, data.seed, "two-sample", split)

    return out | told_apart(data, split, draw)


def novelty(data: TaskData, method: Method) -> dict[str, float]:
    """How near draws at the best trained result are to finished train members."""
    split, known = data.task.split, Finished.of(data)

    def draw(condition: Condition) -> Population:
        return method.draws(condition, DRAWS, data.seed, "novelty", split)

    compared = Comparison.of(data, split, known, draw)
    out = compared.metrics()
    sets = data.class_sets(compared.tasks)
    accuracy = accuracies(compared.outputs[::DRAWS]).numpy()
    statistics: dict[str, Callable[[np.ndarray], float]] = {
        "accuracy": lambda index: float(np.median(accuracy[index]))
    }
    for name in ("weight", "function"):
        pair = [getattr(nearest, name) for nearest in (compared.of_draws, compared.left_out)]
        of_name = f"{name}_distance"
        for key in (of_name, f"{of_name}_share_closer"):
            statistics[key] = partial(_distance, of_name, key, *pair)
    out |= intervals(data, statistics, sets)
    return out | {"error_overlap_members": member_overlap(data.zoo, data.runner, split)}


def _distance(
    name: str, key: str, of_draws: np.ndarray, left_out: np.ndarray, index: np.ndarray
) -> float:
    """One figure of the distances of some draws, by index."""
    return distances(name, of_draws[index], left_out)[key]


def properties(data: TaskData, method: Method) -> dict[str, float]:
    """What predictors that are fitted on train members read off the columns of held-out ones."""
    split, zoo = data.task.split, data.zoo
    members = {s: _judged(t) for s in ("train", "val", split) if len(t := zoo.select(s))}
    x = {s: method.columns(zoo.networks(t)).numpy() for s, t in members.items()}
    features = Features(members, {READING: x}, _present(data, members))
    table = members[split]
    sets = table["class_set"].to_numpy() if "class_set" in table else table["run"].to_numpy()
    if len(np.unique(sets)) < 2:
        sets = table["run"].to_numpy()
    out: dict[str, float] = {"members": len(table)}
    for name in varying_targets(members["train"]):
        if not all(_is_known(name, t) for t in members.values()):
            continue
        pair = predictions(features, READING, name, data.seed)[split]
        values = score(name, *pair)
        scores = {key: partial(_score, name, key, *pair) for key in values}
        out |= values | intervals(data, scores, sets)
        out |= ties(pair[0]) if name == "test_accuracy" else {}
    if features.present:
        of_sets = class_set_metrics(features, [split], data.seed)[split]
        out |= {k.removeprefix(f"{READING}_"): v for k, v in of_sets.items()}
    return out


def _judged(members: pd.DataFrame) -> pd.DataFrame:
    """Members whose accuracy on val images is not known, as in published zoos, have that on test images."""
    unknown = members["val_accuracy"].isna()
    known = members["val_accuracy"].where(~unknown, members["test_accuracy"])
    return members.assign(val_accuracy=known)


def _is_known(name: str, members: pd.DataFrame) -> bool:
    """Whether a target is known of all members."""
    return not pd.isna(target(members, name)).any()


def _score(
    name: str, key: str, truth: np.ndarray, predicted: np.ndarray, index: np.ndarray
) -> float:
    """One score of one target on some members, by index."""
    return score(name, truth[index], predicted[index])[key]


def ties(truth: np.ndarray) -> dict[str, float]:
    """What equal results do to a rank correlation: its ceiling, and how many share one value.

    Tau-b of a ranking without ties with truth that has some is at most the root of the fraction of
    pairs without a tie. Networks that failed all have the accuracy of chance.

    Args:
        truth: results ``(N,)``.

    >>> ties(np.array([0.1, 0.1, 0.5, 0.9]))
    {'test_accuracy_tau_ceiling': 0.9128709291752769, 'test_accuracy_most_frequent': 0.5}

    """
    counts = np.unique(truth, return_counts=True)[1].astype(float)
    pairs = len(truth) * (len(truth) - 1)
    tied = float((counts * (counts - 1)).sum()) / pairs if pairs else 0.0
    return {
        "test_accuracy_tau_ceiling": float(np.sqrt(1 - tied)),
        "test_accuracy_most_frequent": float(counts.max() / len(truth)),
    }


def _present(data: TaskData, members: dict[str, pd.DataFrame]) -> dict[str, np.ndarray]:
    """Which classes the task of each member has ``(N, K)``; nothing where there is no dataset."""
    if data.dataset is None:
        return {}
    classes = data.dataset.classes
    known = torch.arange(int(classes.max()) + 1)
    return {
        s: (classes[torch.tensor(t["task"].to_numpy())][..., None] == known).any(1).numpy()
        for s, t in members.items()
    }


def intervals(
    data: TaskData, statistics: Mapping[str, Callable[[np.ndarray], float]], units: np.ndarray
) -> dict[str, float]:
    """Bounds of each statistic under resampling of class sets.

    Args:
        data: says how often.
        statistics: name -> value for an index array.
        units: class set of each row ``(N,)``.

    """
    out: dict[str, float] = {}
    for name, statistic in statistics.items():
        rng = stream(data.seed, "leaderboard", "bootstrap", name)
        out |= m.with_interval(name, statistic, units, data.settings.bootstrap, rng)
    return out


def as_figures(values: dict[str, float]) -> dict[str, Figure]:
    """Values and their bounds, which are under names of their own, together; NaN as nothing.

    >>> as_figures({"mae": 0.1, "mae_low": 0.0, "mae_high": 0.2})
    {'mae': Figure(value=0.1, low=0.0, high=0.2)}
    >>> as_figures({"agreement_mean": 0.9, "agreement_low": 0.8, "agreement_high": 1.0})
    {'agreement_mean': Figure(value=0.9, low=0.8, high=1.0)}
    """

    def number(*keys: str) -> float | None:
        value = next((values[key] for key in keys if key in values), np.nan)
        return float(value) if np.isfinite(value) else None

    def bound(name: str, end: str) -> float | None:
        return number(name + end, name.removesuffix("_mean") + end)

    ends = {
        base + end
        for base in (*values, *(name.removesuffix("_mean") for name in values))
        for end in ("_low", "_high")
    }
    return {
        name: Figure(value=number(name), low=bound(name, "_low"), high=bound(name, "_high"))
        for name in values
        if name not in ends
    }


FAMILIES = {
    "reconstruction": (reconstruction, ("encode", "decode")),
    "sampling": (sampling, ("sample",)),
    "novelty": (novelty, ("sample",)),
    "properties": (properties, ("encode",)),
}  # name -> figures, and the functions that they need
