"""Tasks: ordered choices of classes, split by class set so that no permutation leaks.

A class set (a task without its order) belongs to exactly one split. With unseen classes, the
tasks of ``test_classes`` contain ``min(unseen, classes_per_task)`` of them, and no other task
contains any.
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
ENUMERATE_AT_MOST = 200_000  # class sets; above that they are drawn by rejection


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
        the unseen classes.

    Raises:
        WeightspaceError: fewer classes than the tasks need.

    """
    size, unseen_count = settings.classes_per_task, settings.unseen_classes
    if classes - unseen_count < size:
        raise problem(
            "too few classes for a task",
            where="params.yaml: dataset.classes_per_task",
            found=f"{classes} classes in source '{settings.source}', {unseen_count} of them kept unseen",
            expected=f"at least {size + unseen_count}",
        )
    order = stream(seed, "dataset", "classes").permutation(classes)
    unseen, seen = sorted(order[:unseen_count].tolist()), sorted(order[unseen_count:].tolist())
    fresh = min(unseen_count, size)
    wanted = None if settings.tasks == "all" else math.ceil(settings.tasks / math.factorial(size))
    sets = _draw_sets([(seen, size)], wanted, stream(seed, "dataset", "sets"))
    splits = _assign(len(sets), settings)
    if unseen_count:
        held_out = settings.splits.test_sets or settings.splits.val
        count = max(1, round(held_out * len(sets)))
        new = _draw_sets(
            [(unseen, fresh), (seen, size - fresh)], count, stream(seed, "dataset", "unseen")
        )
        sets, splits = sets + new, splits + ["test_classes"] * len(new)
    rows = [
        {"classes": list(task), "class_set": number, "split": split}
        for number, (chosen, split) in enumerate(zip(sets, splits, strict=True))
        for task in permutations(chosen)
    ]
    table = pd.DataFrame(rows)
    table.insert(0, "task", np.arange(len(table)))
    return table, unseen


def _draw_sets(
    pools: list[tuple[list[int], int]], wanted: int | None, rng: np.random.Generator
) -> list[tuple[int, ...]]:
    """Draw distinct class sets: so many classes from each pool, sorted inside, shuffled outside."""
    total = math.prod(math.comb(len(pool), count) for pool, count in pools)
    wanted = total if wanted is None else min(wanted, total)
    if total <= ENUMERATE_AT_MOST:
        parts: list[tuple[int, ...]] = [()]
        for pool, count in pools:
            parts = [p + c for p in parts for c in combinations(pool, count)]
        chosen = [parts[i] for i in rng.permutation(total)[:wanted]]
    else:
        found: dict[tuple[int, ...], None] = {}
        while len(found) < wanted:
            draw = [
                c for pool, count in pools for c in rng.choice(pool, count, replace=False).tolist()
            ]
            found[tuple(sorted(draw))] = None
        chosen = list(found)
    return [tuple(sorted(c)) for c in chosen]


def _assign(count: int, settings: DatasetSettings) -> list[str]:
    """Splits of shuffled class sets by share; every split with a share gets at least one set."""
    shares = settings.splits
    val = max(1, round(shares.val * count)) if shares.val else 0
    test = max(1, round(shares.test_sets * count)) if shares.test_sets else 0
    train = count - val - test
    if train < 1:
        raise problem(
            "too few class sets to split",
            where="params.yaml: dataset.tasks",
            found=f"{count} class sets",
            expected=f"at least {val + test + 1}",
        )
    return ["train"] * train + ["val"] * val + ["test_sets"] * test
