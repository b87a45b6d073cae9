"""Rules of an import: which members are asked for, which the architecture can hold, their task and split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from weightspace.artifacts import TASKS_FILE
from weightspace.data.dataset import Dataset
from weightspace.data.tasks import SPLITS
from weightspace.errors import nearest, problem
from weightspace.nets.base import Net
from weightspace.rng import stream
from weightspace.zoo.readers.base import Row, read_table, some

SEPARATORS = re.compile(r"[,|;\s\[\]()'\"]+")
RANDOM = ("train", "val", "test_sets")  # splits that runs are drawn for
THEIRS = {"test": "test_sets"}  # a split under its usual name


def selects(row: Row, where: Mapping[str, str]) -> bool:
    """Whether a member has every value that is asked for, as text or as a number.

    >>> row = {"model::nlin": "relu", "epoch": 50.0}
    >>> selects(row, {"nlin": "relu", "epoch": "50"}), selects(row, {"nlin": "tanh"})
    (True, False)
    """
    return all(_equal(row[_column(row, name)], value) for name, value in where.items())


def _equal(value: Any, text: str) -> bool:
    try:
        return str(value) == text or float(value) == float(text)
    except (TypeError, ValueError):
        return False


def _column(row: Row, name: str) -> str:
    """A column by its name, or by the last part of it: ``nlin`` for ``model::nlin``."""
    if name in row:
        return name
    ends = [c for c in row if re.split(r"::|\.", c)[-1] == name]
    if len(ends) != 1:
        got = some(ends) if ends else f"columns {some(sorted(row))}"
        raise problem(f"no column '{name}'", where="--where", got=got, do=nearest(name, row))
    return ends[0]


def check_supported(row: Row, net: Net) -> None:
    """Refuse a member that the architecture would run in another way than it was trained.

    Its weights may fit all the same: stride, border and activation are in no tensor.
    """
    where, architecture = row["file"], net.meta["architecture"]
    if "unsupported" in row:
        do = "leave such networks out by --where, for example residual=none"
        raise problem(f"no architecture here has {row['unsupported']}", where=where, do=do)
    settings = {"activation": "relu"} | net.meta["settings"]
    activation = row.get("activation")
    facts = {} if activation is None else {"activation": str(activation).lower()}
    for name, value in (facts | row.get("net", {})).items():
        if settings.get(name) != value:
            raise problem(
                f"network of {name} {value}",
                where=where,
                expected=f"{settings.get(name)}, as nets.{architecture} of params.yaml says",
                do=f"set it there, or choose other networks, such as --where {name}=VALUE",
            )


class Tasks:
    """Tasks of a dataset by the classes that a row names; without any, all classes in their order."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.index = {name: i for i, name in enumerate(dataset.class_names)}
        rows = dataset.tasks["classes"]
        self.known = {tuple(int(c) for c in row): t for t, row in enumerate(rows)}
        self.of_text: dict[str, int] = {}

    def of(self, row: Row) -> int:
        """Task of a member."""
        text = str(row["classes"]) if row.get("classes") is not None else ""
        if text not in self.of_text:
            self.of_text[text] = self._find(text, row["file"])
        return self.of_text[text]

    def _find(self, text: str, where: object) -> int:
        names = [n for n in SEPARATORS.split(text) if n] or list(self.index)
        unknown = [n for n in names if n not in self.index]
        if unknown:
            do = nearest(unknown[0], self.index)
            raise problem(f"no class '{unknown[0]}'", where=where, do=do)
        task = self.known.get(tuple(self.index[n] for n in names))
        if task is None:
            raise problem(
                "not a task of the dataset",
                where=where,
                got=f"classes {text or 'of all outputs, in their order'}",
                expected=f"{self.dataset.classes_per_task} classes of a task in data/{TASKS_FILE}",
                do="set dataset.tasks to all, or to sets for the order of the dataset alone, or "
                "import the networks of its tasks only",
            )
        return task


def splits_of(
    members: pd.DataFrame, runs: Sequence[str], dataset: Dataset, rule: str | None, seed: int
) -> tuple[np.ndarray, str | None]:
    """Split of each of N members, all those of a run in one, and a note on how it was chosen.

    Args:
        members: table with ``run``, ``task`` and ``split``, None where the zoo says none.
        runs: name of each run, by its number.
        dataset: its tasks have a split, which counts where nothing else says one.
        rule: three fractions of the runs, like ``0.7,0.15,0.15``; or a CSV with columns run and split.
        seed: root seed of the draw.

    """
    by_run = "a held-out network may have a task that train has"
    if rule is None and members["split"].isna().all():
        tasks = dataset.tasks.set_index("task")["split"]
        return tasks.loc[members["task"]].to_numpy(), None
    if rule is None:
        splits = members["split"].map(lambda s: _split(s, "column 'split'")).to_numpy()
        note = f"splits are those of the zoo; {by_run}"
    elif re.fullmatch(r"[0-9.,\s]+", rule):
        splits, note = (
            _drawn(rule, len(runs), seed)[members["run"]],
            f"splits are of runs; {by_run}",
        )
    else:
        splits, note = _listed(Path(rule), runs)[members["run"]], f"splits are of {rule}; {by_run}"
    several = pd.Series(splits).groupby(members["run"].to_numpy()).nunique() > 1
    if several.any():
        name = runs[int(several.to_numpy().argmax())]
        raise problem(f"run '{name}' has members of several splits", do="correct the splits")
    return splits, note


def _split(value: Any, where: object) -> str:
    """A split by its name here or its usual one."""
    name = THEIRS.get(str(value), str(value))
    if name not in SPLITS:
        raise problem(f"no split '{value}'", where=where, do=nearest(str(value), SPLITS))
    return name


def _drawn(rule: str, count: int, seed: int) -> np.ndarray:
    """Splits of runs in a random order, by fractions."""
    try:
        fractions = [float(text) for text in rule.split(",")]
    except ValueError:
        fractions = []
    if len(fractions) != len(RANDOM) or abs(sum(fractions) - 1) > 1e-6:
        raise problem(
            "no fractions", where="--split", got=rule, expected="three that add up to 1, or a file"
        )
    ends = np.round(np.cumsum(fractions) * count).astype(int)
    order = stream(seed, "import", "split").permutation(count)
    splits = np.empty(count, dtype=object)
    for name, part in zip(RANDOM, np.split(order, ends[:-1]), strict=True):
        splits[part] = name
    return splits


def _listed(file: Path, runs: Sequence[str]) -> np.ndarray:
    """Splits of runs as a table says; runs that are in no split are an error."""
    table = read_table(file, ("run", "split"))
    if (twice := table["run"][table["run"].duplicated()]).size:
        raise problem(f"run '{twice.iloc[0]}' has two rows", where=file)
    of_run = dict(zip(table["run"], table["split"], strict=True))
    missing = [run for run in runs if run not in of_run]
    if missing:
        raise problem(f"no split of run '{missing[0]}'", where=file, do="add a row for it")
    return np.array([_split(of_run[run], file) for run in runs], dtype=object)
