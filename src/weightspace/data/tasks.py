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
HELD_OUT = SPLITS[1:]  # metrics of these are reported
ENUMERATE_AT_MOST = 200_000  # class sets; above that they are drawn by rejection
DRAWN_AT_ONCE = 2048  # class sets, to bound memory
Pools = list[tuple[list[int], int]]  # classes, and how many of them a class set contains


def part_of(split: str) -> str:
    """Part of the images that metrics of a split are measured on.

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
        classes: K, the classes of the image source.
        seed: root seed.

    Returns:
        Table with one row per ordered task (``task``, ``classes``, ``class_set``, ``split``; per
        class set where ``tasks`` is ``sets``) and the classes that neither ``train`` nor ``test_sets`` contain.

    Raises:
        WeightspaceError: fewer classes than the tasks need, or too many tasks to list them all.

    """
    size, unseen = settings.classes_per_task, settings.unseen_classes + settings.val_classes
    if classes - unseen < size:
        raise problem(
            "too few classes for a task",
            where="params.yaml: dataset.classes_per_task",
            got=f"{classes} classes in source '{settings.source}', {unseen} of them kept unseen",
            expected=f"at least {size + unseen}",
        )
    order = stream(seed, "dataset", "classes").permutation(classes)
    new, val_only, seen = (
        sorted(part.tolist()) for part in np.split(order, [settings.unseen_classes, unseen])
    )
    every_set = settings.tasks in ("all", "sets")
    most = None if every_set else math.ceil(settings.tasks / math.factorial(size))
    sets = _draw_sets([(seen, size)], most, stream(seed, "dataset", "sets"))
    splits = _assign(len(sets), settings)
    if val_only:
        rng = stream(seed, "dataset", "val")
        val = _draw_sets(_with(val_only, seen, size), int((splits == "val").sum()), rng)
        sets, splits = _joined(sets[splits != "val"], splits[splits != "val"], val, "val")
    if new:
        count = max(1, round(settings.unseen_share * len(sets)))
        test = _draw_sets(_with(new, seen, size), count, stream(seed, "dataset", "unseen"))
        sets, splits = _joined(sets, splits, test, "test_classes")
    return _table(sets, splits, all_orders=settings.tasks != "sets"), sorted(new + val_only)


def _with(fresh: list[int], seen: list[int], size: int) -> Pools:
    """As many fresh classes as a task can hold, seen ones for the rest."""
    count = min(len(fresh), size)
    return [(fresh, count), (seen, size - count)]


def _joined(
    sets: np.ndarray, splits: np.ndarray, more: np.ndarray, split: str
) -> tuple[np.ndarray, np.ndarray]:
    """Class sets and splits with the sets of one more split at the end.

    Args:
        sets: int64 ``(n, classes per task)``.
        splits: split of each ``(n,)``.
        more: further sets ``(m, classes per task)``.
        split: their split.

    """
    return np.concatenate([sets, more]), np.concatenate([splits, [split] * len(more)])


def _table(sets: np.ndarray, splits: np.ndarray, *, all_orders: bool) -> pd.DataFrame:
    """One row for each order of each class set, or for the order of its classes alone.

    Args:
        sets: int64 ``(n, classes per task)``.
        splits: split of each ``(n,)``.
        all_orders: of ten classes there are 3,628,800, which no zoo of one task needs.

    """
    every = permutations(range(sets.shape[1]))
    orders = np.array(list(every) if all_orders else [next(every)])  # the first is the identity
    tasks = sets[:, orders].reshape(-1, sets.shape[1])
    return pd.DataFrame(
        {
            "task": np.arange(len(tasks)),
            "classes": tasks.tolist(),
            "class_set": np.arange(len(sets)).repeat(len(orders)),
            "split": splits.astype(object).repeat(len(orders)),
        }
    )


def _draw_sets(pools: Pools, most: int | None, rng: np.random.Generator) -> np.ndarray:
    """Draw distinct class sets: so many classes from each pool, sorted inside, shuffled outside.

    Args:
        pools: classes, and how many of them a set contains.
        most: sets to draw at most; None for all.
        rng: random stream.

    Returns:
        int64 ``(n, classes per task)``; all there are when fewer than ``most``.

    >>> len(_draw_sets([([0, 1, 2, 3], 2)], None, stream(0, "example")))  # 4 over 2
    6

    """
    total = math.prod(math.comb(len(pool), count) for pool, count in pools)
    if total > ENUMERATE_AT_MOST:
        if most is None:
            raise problem(
                "too many class sets to take all",
                where="params.yaml: dataset.tasks",
                got=f"all of {total}",
                expected=f"a count of tasks, or at most {ENUMERATE_AT_MOST} class sets",
            )
        return _draw_by_rejection(pools, min(most, total), rng)
    parts: list[tuple[int, ...]] = [()]
    for pool, count in pools:
        parts = [p + c for p in parts for c in combinations(pool, count)]
    return np.sort(np.array(parts)[rng.permutation(total)[:most]], axis=1)


def _draw_by_rejection(pools: Pools, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw class sets independently and drop those that were drawn before."""
    sets = np.empty((0, sum(size for _, size in pools)), dtype=np.int64)
    while len(sets) < count:
        drawn = [
            rng.permuted(np.tile(pool, (DRAWN_AT_ONCE, 1)), axis=1)[:, :size]
            for pool, size in pools
        ]
        rows = np.concatenate([sets, np.sort(np.concatenate(drawn, axis=1), axis=1)])
        first = np.unique(rows, axis=0, return_index=True)[1]
        sets = rows[np.sort(first)]
    return sets[:count]


def _assign(count: int, settings: DatasetSettings) -> np.ndarray:
    """Splits of shuffled class sets; every split with a fraction above 0 gets at least one set."""
    fractions = settings.splits
    val = max(1, round(fractions.val * count)) if fractions.val else 0
    test = max(1, round(fractions.test_sets * count)) if fractions.test_sets else 0
    train = count - val - test
    if train < 1:
        raise problem(
            "too few class sets to split",
            where="params.yaml: dataset.tasks",
            got=f"{count} class sets",
            expected=f"at least {val + test + 1}",
        )
    return np.array(["train", "val", "test_sets"]).repeat([train, val, test])
