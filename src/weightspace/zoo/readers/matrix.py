"""One matrix of all networks, as the zoos of Unterthiner et al. (2020), arXiv 2002.11448, come.

``weights.npy`` ``(N, numbers)`` is mapped into memory and read row by row; ``metrics.csv`` or
``metrics.csv.gz`` has a row per network; ``layout.csv`` says which columns are which tensor: TensorFlow's
variables, a bias before its kernel, kernels of convolutions as (height, width, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from weightspace.errors import problem
from weightspace.weights.spec import Spec, Weights
from weightspace.zoo.readers.base import (
    RESULTS,
    Kind,
    Member,
    Row,
    State,
    fit_by_order,
    no_table,
    number,
    one_or_none,
    read_table,
)

__all__ = ["KINDS", "fit", "members"]

KINDS = (
    Kind(
        "/kernel:0", ".weight", {4: (3, 2, 0, 1), 2: (1, 0)}
    ),  # HWIO -> OIHW, (in, out) -> (out, in)
    Kind("/bias:0", ".bias"),
)
# Column there -> column here. An L2 penalty is the weight decay of these networks.
COLUMNS = {
    "modeldir": "run",
    "step": "epoch",
    "config.activation": "activation",
    "config.optimizer": "optimizer",
    "config.learning_rate": "lr",
    "config.l2reg": "weight_decay",
    "config.epochs": "epochs",
    "split": "split",
    **{name: name for name in RESULTS},
}
CATEGORIES = {"config.activation", "config.optimizer", "config.w_init", "split", "modeldir"}
MAPPED_ANEW = 1000  # rows
Layout = list[tuple[str, int, int, tuple[int, ...]]]  # name, first and last column, shape


def members(path: Path, table: Path | None) -> Iterator[Member]:
    """Members of the matrix, run after run.

    Args:
        path: folder with the three files.
        table: None.

    Raises:
        WeightspaceError: a file is missing or damaged, counts differ, columns are of no tensor.

    """
    no_table(table, "matrix")
    weights, layout = Matrix(path), _layout(path / "layout.csv")
    if layout[-1][2] != weights.numbers:
        raise problem(
            "tensors do not fill a row of the matrix",
            where=path / "layout.csv",
            got=f"{layout[-1][2]} numbers",
            expected=f"{weights.numbers}, as weights.npy has",
        )
    metrics, file = _metrics(path)
    if len(metrics) != len(weights):
        raise problem(
            "rows of metrics and weights differ",
            where=file,
            got=f"{len(metrics)} rows",
            expected=f"{len(weights)}, as weights.npy has",
        )
    runs = pd.factorize(metrics["modeldir"])[0]
    steps = metrics["step"].to_numpy()
    order = np.lexsort((steps, runs))
    same = (np.diff(runs[order]) == 0) & (np.diff(steps[order]) == 0)
    if same.any():
        row = int(order[int(same.argmax()) + 1])
        raise problem(f"row {row + 1}: a second row of its run and step", where=file)
    columns = {str(name): metrics[name].to_numpy() for name in metrics}
    net = _net(sum(len(shape) == 4 for *_, shape in layout))
    for i in order:
        where = f"{file}: row {i + 1}"
        yield _row(columns, int(i), where) | {"net": net}, partial(_state, weights, int(i), layout)


def fit(state: State, spec: Spec, where: object) -> Weights:
    """Weights ``(*shape)`` of one network, by the declared table."""
    return fit_by_order(state, spec, KINDS, where)


def _net(convolutions: int) -> dict[str, Any]:
    """What no tensor shows: stride 2, no border, no pooling, the mean over all pixels at the end."""
    each = {"strides": 2, "padding": 0, "pools": 1}
    return {name: [value] * convolutions for name, value in each.items()} | {"mean": True}


class Matrix:
    """The matrix on disk, of which single rows are read.

    It is mapped anew now and then: pages of a mapping that were read once count as memory in use.

    Args:
        path: folder of the zoo.

    """

    def __init__(self, path: Path) -> None:
        file = one_or_none(path, "weights.npy")
        if file is None:
            expected = "weights.npy, metrics.csv.gz, layout.csv"
            raise problem("no weights.npy", where=path, expected=expected)
        self._file, self._reads = file, 0
        self._rows = self._mapped()
        if self._rows.ndim != 2 or self._rows.dtype.kind != "f" or not len(self._rows):
            raise problem(
                "not a matrix of networks",
                where=file,
                got=f"{self._rows.dtype} of shape {self._rows.shape}",
                expected="floating numbers of shape (networks, numbers)",
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def numbers(self) -> int:
        """Numbers of a network."""
        return int(self._rows.shape[1])

    def row(self, i: int) -> np.ndarray:
        """Numbers of a network, float32."""
        self._reads += 1
        if self._reads % MAPPED_ANEW == 0:
            self._rows = self._mapped()
        return np.array(self._rows[i], dtype=np.float32)

    def _mapped(self) -> np.ndarray:
        try:
            rows: np.ndarray = np.load(self._file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise problem(f"not a complete NumPy file ({error})", where=self._file) from error
        return rows


def _metrics(path: Path) -> tuple[pd.DataFrame, Path]:
    """Table of results; numbers as such, and text that repeats stored once."""
    file = one_or_none(path, "metrics.csv*")
    if file is None:
        raise problem("no metrics.csv.gz", where=path)
    head = read_table(file, ("modeldir", "step"), nrows=1)
    try:
        table = pd.read_csv(
            file,
            usecols=[c for c in head if c in COLUMNS or str(c).startswith("config.")],
            dtype={c: "category" for c in head if c in CATEGORIES},
        )
    except (ValueError, OSError, EOFError) as error:
        raise problem(f"not a complete table ({error})", where=file) from error
    if table["step"].dtype.kind not in "iuf" or table["step"].isna().any():
        raise problem("column 'step': not numbers", where=file)
    if table["modeldir"].isna().any():
        row = int(table["modeldir"].isna().argmax())
        raise problem(f"row {row + 1}: no modeldir", where=file, expected="its run")
    return table, file


def _layout(file: Path) -> Layout:
    """Tensors in the order of their columns, without gaps."""
    table = read_table(file, ("varname", "start_idx", "end_idx", "shape"))
    out: Layout = []
    for i, row in enumerate(table.to_dict("records"), 1):
        where = f"{file}: row {i}"
        shape = tuple(int(n) for n in re.findall(r"\d+", row["shape"]))
        bounds = [number(row[name], name, where) for name in ("start_idx", "end_idx")]
        first, last = (-1 if b is None or b != int(b) else int(b) for b in bounds)
        before = out[-1][2] if out else 0
        if first != before or last - first != np.prod(shape) or not shape:
            raise problem(
                f"tensor '{row['varname']}' does not follow the one before it, or not with its shape",
                where=where,
                got=f"columns {first} to {last} of shape {row['shape']}",
                expected=f"from {before}, as many as the shape has numbers",
            )
        out.append((str(row["varname"]), first, last, shape))
    return out


def _row(columns: dict[str, np.ndarray], i: int, where: str) -> Row:
    """Row of a network: the zoo's columns and ours."""
    row: dict[str, Any] = {name: column[i] for name, column in columns.items()}
    ours = {here: row[there] for there, here in COLUMNS.items() if there in row}
    return row | ours | {"file": where, "run": str(ours["run"])}


def _state(weights: Matrix, i: int, layout: Layout) -> State:
    """Tensors of a network."""
    flat = torch.from_numpy(weights.row(i))
    return {name: flat[first:last].view(shape) for name, first, last, shape in layout}
