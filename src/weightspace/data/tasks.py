"""Tasks: ordered choices of classes, split by class set so that no permutation leaks.

A class set (a task without its order) belongs to exactly one split. With unseen classes, the
tasks of ``test_classes`` contain ``min(unseen, classes_per_task)`` of them, and no other task
contains any. The same holds for ``val`` and ``val_classes``.
"""

from __future__ import annotations

import math
from itertools import combinations, permutations

import numpy as np
import pandas as pd

from weightspace.errors import problem
from weightspace.params import DatasetSettings
from weightspace.rng import stream

SPLITS = ("train", "val", "test_sets", "test_classes")
TEST_SPLITS = SPLITS[2:]  # read once, by the evaluations
HELD_OUT = SPLITS[1:]  # of these figures are reported
ENUMERATE_AT_MOST = 200_000  # class sets; above that they are drawn by rejection
DRAWN_AT_ONCE = 2048  # class sets, to bound memory
Pools = list[tuple[list[int], int]]  # classes, and how many of them a class set contains


def part_of(split: str) -> str:
    """Part of the images that figures of a split are measured on.

    >>> part_of("val"), part_of("test_sets")
    ('val', 'test')
    """
    return "val" if split == "val" else "test"


def draw_tasks(
    settings: DatasetSettings, classes: int, seed: int
) -> tuple[pd.DataFrame, list[int]]:
    """Draw tasks and assign each to a split.

    Args:
        settings: section ``dataset`` of params.yaml.
        classes: number of classes K of the image source.
        seed: root seed.

    Returns:
        Table with one row per ordered task (``task``, ``classes``, ``class_set``, ``split``) and
        the classes that neither ``train`` nor ``test_sets`` contain.

    Raises:
        WeightspaceError: fewer classes than the tasks need, or too many tasks to list them all.

    """
    size, kept = settings.classes_per_task, settings.unseen_classes + settings.val_classes
    if classes - kept < size:
        raise problem(
            "too few classes for a task",
            where="params.yaml: dataset.classes_per_task",
            got=f"{classes} classes in source '{settings.source}', {kept} of them kept unseen",
            expected=f"at least {size + kept}",
        )
    order = stream(seed, "dataset", "classes").permutation(classes)
    new, val_only, seen = (
        sorted(part.tolist()) for part in np.split(order, [settings.unseen_classes, kept])
    )
    wanted = None if settings.tasks == "all" else math.ceil(settings.tasks / math.factorial(size))
    sets = _draw_sets([(seen, size)], wanted, stream(seed, "dataset", "sets"))
    splits = _assign(len(sets), settings)
    if val_only:
        rng = stream(seed, "dataset", "val")
        found = _draw_sets(_with(val_only, seen, size), int((splits == "val").sum()), rng)
        sets, splits = _joined(sets[splits != "val"], splits[splits != "val"], found, "val")
    if new:
        count = max(1, round(settings.unseen_share * len(sets)))
        found = _draw_sets(_with(new, seen, size), count, stream(seed, "dataset", "unseen"))
        sets, splits = _joined(sets, splits, found, "test_classes")
    return _table(sets, splits), sorted(new + val_only)


def _with(fresh: list[int], seen: list[int], size: int) -> Pools:
    """As many fresh classes as a task can hold, seen ones for the rest."""
    count = min(len(fresh), size)
    return [(fresh, count), (seen, size - count)]


def _joined(
    sets: np.ndarray, splits: np.ndarray, more: np.ndarray, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Class sets and splits with the sets of one more split at the end."""
    return np.concatenate([sets, more]), np.concatenate([splits, [split] * len(more)])


def _table(sets: np.ndarray, splits: np.ndarray) -> pd.DataFrame:
    """One row for each order of each class set."""
    orders = np.array(list(permutations(range(sets.shape[1]))))
    tasks = sets[:, orders].reshape(-1, sets.shape[1])
    return pd.DataFrame(
        {
            "task": np.arange(len(tasks)),
            "classes": tasks.tolist(),
            "class_set": np.arange(len(sets)).repeat(len(orders)),
            "split": splits.astype(object).repeat(len(orders)),
        }
    )


def _draw_sets(pools: Pools, wanted: int | None, rng: np.random.Generator) -> np.ndarray:
    """Draw distinct class sets: so many classes from each pool, sorted inside, shuffled outside.

    Returns:
        int64 ``(n, classes per task)``; all there are when fewer than ``wanted``.

    """
    total = math.prod(math.comb(len(pool), count) for pool, count in pools)
    if total > ENUMERATE_AT_MOST:
        if wanted is None:
            raise problem(
                "too many class sets to take all",
                where="params.yaml: dataset.tasks",
                got=f"all of {total}",
                expected=f"a number of tasks, or at most {ENUMERATE_AT_MOST} class sets",
            )
        return _draw_by_rejection(pools, min(wanted, total), rng)
    parts: list[tuple[int, ...]] = [()]
    for pool, count in pools:
        parts = [p + c for p in parts for c in combinations(pool, count)]
    return np.sort(np.array(parts)[rng.permutation(total)[:wanted]], axis=1)


def _draw_by_rejection(pools: Pools, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Draw class sets independently and drop those that were drawn before."""
    found = np.empty((0, sum(count for _, count in pools)), dtype=np.int64)
    while len(found) < wanted:
        drawn = [
            rng.permuted(np.tile(pool, (DRAWN_AT_ONCE, 1)), axis=1)[:, :count]
            for pool, count in pools
        ]
        rows = np.concatenate([found, np.sort(np.concatenate(drawn, axis=1), axis=1)])
        first = np.unique(rows, axis=0, return_index=True)[1]
        found = rows[np.sort(first)]
    return found[:wanted]


def _assign(count: int, settings: DatasetSettings) -> np.ndarray:
    """Splits of shuffled class sets by share; every split with a share gets at least one set."""
    shares = settings.splits
    val = max(1, round(shares.val * count)) if shares.val else 0
    test = max(1, round(shares.test_sets * count)) if shares.test_sets else 0
    train = count - val - test
    if train < 1:
        raise problem(
            "too few class sets to split",
            where="params.yaml: dataset.tasks",
            got=f"{count} class sets",
            expected=f"at least {val + test + 1}",
        )
    return np.array(["train", "val", "test_sets"]).repeat([train, val, test])
