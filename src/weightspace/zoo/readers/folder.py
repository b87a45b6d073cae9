"""A folder of checkpoints and a table that says which file was trained on which classes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from weightspace.errors import problem
from weightspace.weights.checkpoints import find, fit_state, read_state
from weightspace.zoo.readers.base import NUMBERS, Member, read_table

__all__ = ["fit", "members", "unread"]

fit = fit_state  # by name and shape


def members(path: Path, table: Path | None) -> Iterator[Member]:
    """Members of a table, run after run.

    Args:
        path: checkpoints, in subfolders or not.
        table: CSV or Parquet, one row per checkpoint. ``file`` is its path below the folder and
            ``classes`` its classes in the order of the outputs, like ``3,8,1``. Optional: ``run``
            (snapshots of one run share it), ``epoch``, ``split``, ``activation``, ``optimizer``, ``lr``,
            ``weight_decay``, ``epochs``; ``test_accuracy`` and its kin.

    Raises:
        WeightspaceError: a table that is incomplete, or a file that is not in the folder.

    """
    if table is None:
        raise problem(
            "no table says what the checkpoints are", where=path, do="name it: --results TABLE.csv"
        )
    rows = _rows(table)
    paths = [_inside(path, name, table) for name in rows["file"]]
    runs = pd.factorize(rows["run"])[0] if "run" in rows else np.arange(len(rows))
    epochs = rows["epoch"] if "epoch" in rows else pd.Series(0.0, rows.index)
    for i in np.lexsort((epochs.to_numpy(), runs)):
        row = {str(k): v for k, v in rows.iloc[i].items()} | {"file": str(paths[i])}
        yield row, partial(read_state, paths[i])


def unread(path: Path, table: Path) -> list[str]:
    """Say which checkpoints of the folder the table does not name."""
    named = {(path / name).resolve() for name in read_table(table, ("file",))["file"]}
    left = [str(p.relative_to(path)) for p in find(path) if p.resolve() not in named]
    return [f"{len(left)} checkpoints are not in the table, {left[0]} the first"] if left else []


def _rows(path: Path) -> pd.DataFrame:
    """Read and verify the table; every number is one."""
    table = read_table(path, ("file", "classes"))
    if (twice := table["file"][table["file"].duplicated()]).size:
        raise problem(f"file '{twice.iloc[0]}' has two rows", where=path)
    for name in NUMBERS:
        if name in table:
            table[name] = _numeric(table[name], path)
    for name in ("lr", "weight_decay"):
        if name in table and (table[name] <= 0).any():
            raise problem(f"column '{name}' has a value of 0 or below", where=path)
    return table


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
