"""A zoo made of a folder of checkpoints that were trained elsewhere.

The table says which file was trained on which classes; results are measured, never believed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from weightspace.artifacts import MEMBERS_FILE, TASKS_FILE, new_folder, read_parquet, write_parquet
from weightspace.data.dataset import PARTS, Dataset
from weightspace.errors import nearest, problem
from weightspace.progress import progress
from weightspace.weights.checkpoints import find, read_networks
from weightspace.weights.spec import block_size
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.shards import check_measured, diverged, finite_members
from weightspace.zoo.store import Zoo, save_shard, shard_name

PER_SHARD = 2000  # members, fewer where networks are large: a shard is in memory at once
# Settings of a run that a table may leave out. A constant predicts nothing, and its log is 0.
UNKNOWN: dict[str, str | float] = {
    "optimizer": "unknown",
    "lr": 1.0,
    "weight_decay": 1.0,
    "epochs": 1.0,
}
BELIEVED = 0.02  # a claimed accuracy further than this from the measured one is pointed out
SEPARATORS = re.compile(r"[,|;\s\[\]()'\"]+")


@dataclass(frozen=True)
class Imported:
    """A finished import: the table of members and what a person should know, a line each."""

    members: pd.DataFrame
    notes: tuple[str, ...]


def import_zoo(folder: Path, results: Path, runner: TaskRunner, out: Path) -> Imported:
    """Read checkpoints strictly, measure them on their tasks and write a zoo.

    Args:
        folder: checkpoints, in subfolders or not.
        results: CSV or Parquet, one row per checkpoint. ``file`` is its path below the folder and
            ``classes`` its classes in the order of the outputs, like ``3,8,1``. Optional: ``run``
            (snapshots of one run share it), ``epoch``, ``optimizer``, ``lr``, ``weight_decay``,
            ``epochs``; ``test_accuracy`` and its kin are compared with what is measured.
        runner: the architecture and the tasks; a task decides the split.
        out: new or empty folder of the zoo.

    Raises:
        WeightspaceError: a file or row that does not fit exactly; nothing is written then.

    """
    table = read_results(results)
    table["task"] = _tasks(table, runner.dataset, results)
    paths = [_inside(folder, name, results) for name in table["file"]]
    members = _members(table, runner.dataset, block_size(runner.net.spec, PER_SHARD))
    order = members.pop("table_row").to_numpy()
    claimed = table.iloc[order].reset_index(drop=True)
    with new_folder(out) as temporary:
        members = _write(temporary, members, [paths[i] for i in order], runner)
        zoo = Zoo.open(temporary)
        for _, shard in zoo.members.groupby("shard"):
            check_measured(runner, shard.reset_index(drop=True), zoo.networks(shard), out)
    notes = (
        _sizes(members),
        *_missing(table),
        *_unread(folder, paths),
        *_differences(members, claimed),
    )
    return Imported(members, notes)


def read_results(path: Path) -> pd.DataFrame:
    """Read and verify the table; every number is one and every setting has a value."""
    if not path.is_file():
        raise problem("no such file", where=path, expected="a .csv or .parquet table")
    if path.suffix == ".parquet":
        table = read_parquet(path).astype(str)
    else:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (ValueError, OSError) as error:
            raise problem(f"not a table ({error})", where=path, expected="CSV") from error
    missing = [c for c in ("file", "classes") if c not in table]
    if missing:
        raise problem(
            f"column '{missing[0]}' is missing",
            where=path,
            got=list(table),
            do=nearest(missing[0], [str(c) for c in table]),
        )
    if table.empty or (twice := table["file"][table["file"].duplicated()]).size:
        what = "table has no rows" if table.empty else f"file '{twice.iloc[0]}' has two rows"
        raise problem(what, where=path)
    for name in table:
        if name in ("epoch", "lr", "weight_decay", "epochs") or _is_result(str(name)):
            table[name] = _numeric(table[name], path)
    for name in ("lr", "weight_decay"):
        if name in table and (table[name] <= 0).any():
            raise problem(f"column '{name}' has a value of 0 or below", where=path)
    return table


def _is_result(name: str) -> bool:
    return name in {f"{part}_{kind}" for part in PARTS for kind in ("accuracy", "loss")}


def _numeric(column: pd.Series, path: Path) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce")
    bad = ~np.isfinite(values.to_numpy(float))
    if bad.any():
        row = int(bad.argmax())
        raise problem(
            f"row {row + 1}, column '{column.name}': not a number",
            where=path,
            got=repr(column.iloc[row]),
        )
    return values


def _tasks(table: pd.DataFrame, dataset: Dataset, path: Path) -> list[int]:
    """Task of each row."""
    index = {name: i for i, name in enumerate(dataset.class_names)}
    known = {tuple(int(c) for c in row): t for t, row in enumerate(dataset.tasks["classes"])}
    out = []
    for row, text in enumerate(table["classes"], 1):
        names = [n for n in SEPARATORS.split(text) if n]
        unknown = [n for n in names if n not in index]
        if unknown:
            raise problem(
                f"row {row}: no class '{unknown[0]}'", where=path, do=nearest(unknown[0], index)
            )
        task = known.get(tuple(index[n] for n in names))
        if task is None:
            raise problem(
                f"row {row}: not a task of the dataset",
                where=path,
                got=f"classes {text}",
                expected=f"{dataset.classes_per_task} classes of a task in data/{TASKS_FILE}",
                do="set dataset.tasks to all, or import the networks of its tasks only",
            )
        out.append(task)
    return out


def _inside(folder: Path, name: str, table: Path) -> Path:
    """Path of a checkpoint, which must lie in the folder: no ``..``, no link that leads out."""
    if not folder.is_dir():
        raise problem("no such folder", where=folder, expected="a folder of checkpoints")
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise problem(f"no file '{name}' in {folder}", where=table) from error
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise problem(f"'{name}' is not a file in {folder}", where=table)
    return folder / name


def _members(table: pd.DataFrame, dataset: Dataset, per_shard: int) -> pd.DataFrame:
    """One row per member, run after run, its snapshots in order of their epochs.

    The last snapshots of all runs get the same index, also where runs have fewer than others.
    ``table_row`` is the row in the table.

    Args:
        table: what the person gave, with the task of each checkpoint.
        dataset: the tasks.
        per_shard: members of a shard.

    """
    rows = pd.DataFrame({"table_row": np.arange(len(table)), "task": table["task"]})
    runs = table["run"] if "run" in table else rows["table_row"]
    rows["run"] = pd.factorize(runs)[0]
    rows["epoch"] = table["epoch"] if "epoch" in table else rows.groupby("run").cumcount() + 1.0
    for name, value in UNKNOWN.items():
        rows[name] = table.get(name, pd.Series(value, table.index))
    rows = rows.sort_values(["run", "epoch"], kind="stable", ignore_index=True)
    if (rows.groupby("run")["task"].nunique() > 1).any():
        mixed = rows.groupby("run")["task"].nunique().idxmax()
        raise problem(f"run {mixed} has members of several tasks", do="correct 'run' or 'classes'")
    group = rows.groupby("run")
    count = group["table_row"].transform("size")
    rows["snapshot"] = (count.max() - count + group.cumcount()).astype(int)
    rows["step"] = rows["epoch"]
    tasks = dataset.tasks.set_index("task")
    rows["split"] = tasks["split"].loc[rows["task"]].to_numpy()
    rows["class_set"] = tasks["class_set"].loc[rows["task"]].to_numpy()
    index = np.arange(len(rows))
    rows.insert(0, "member", index)
    rows.insert(1, "shard", index // per_shard)
    rows.insert(2, "row", index % per_shard)
    return rows


def _write(
    folder: Path, members: pd.DataFrame, paths: Sequence[Path], runner: TaskRunner
) -> pd.DataFrame:
    """Read and write shard after shard, then the table of members with their results, returned.

    Args:
        folder: of the zoo.
        members: table of M members, shard after shard.
        paths: M checkpoints.
        runner: measures.

    """
    spec, results, healthy = runner.net.spec, [], []
    with progress("read", len(paths)) as bar:
        for number, (_, rows) in enumerate(members.groupby("shard")):
            files = paths[rows.index[0] : rows.index[-1] + 1]
            weights = read_networks(files, spec, finite=False)
            save_shard(folder / shard_name(number), weights, spec, number)
            results.append(runner.measure(weights, rows["task"].to_numpy()))
            healthy.append(finite_members(weights))
            bar.advance(len(files))
    members = members.join(pd.concat(results, ignore_index=True))
    members["diverged"] = diverged(members, np.concatenate(healthy), runner.classes)
    write_parquet(folder / MEMBERS_FILE.name, members)
    return members


def _sizes(members: pd.DataFrame) -> str:
    """Say what the zoo holds."""
    splits = ", ".join(f"{k} {v}" for k, v in members.groupby("split", sort=False).size().items())
    runs, bad = members["run"].nunique(), members.loc[members["diverged"], "run"].nunique()
    marked = f"; {bad} diverged runs are kept and marked" if bad else ""
    return f"{len(members)} members of {runs} runs: {splits}{marked}"


def _missing(table: pd.DataFrame) -> list[str]:
    """Say what the table leaves out and what is used instead."""
    absent = [n for n in UNKNOWN if n not in table]
    said = [f"table has no {', '.join(absent)}: a constant is used"] if absent else []
    if "run" not in table:
        said.append("table has no run: every file counts as one run")
    return said


def _unread(folder: Path, paths: list[Path]) -> list[str]:
    """Say which checkpoints of the folder the table does not name."""
    named = {p.resolve() for p in paths}
    left = [str(p.relative_to(folder)) for p in find(folder) if p.resolve() not in named]
    return [f"{len(left)} checkpoints are not in the table, {left[0]} the first"] if left else []


def _differences(members: pd.DataFrame, claimed: pd.DataFrame) -> list[str]:
    """Compare claimed accuracies with the measured ones."""
    out = []
    for name in [f"{part}_accuracy" for part in PARTS if f"{part}_accuracy" in claimed]:
        off = (members[name] - claimed[name]).abs()
        far = int((off > BELIEVED).sum())
        out.append(
            f"{name}: {far} of {len(off)} members differ from the table by more than {BELIEVED:g}, "
            f"{off.max():.3f} at most; the zoo holds what was measured"
        )
    return out
