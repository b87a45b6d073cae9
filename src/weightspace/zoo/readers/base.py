"""What readers have in common: a member, its row, and tensors mapped by order and shape, strictly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from torch import Tensor

from weightspace.artifacts import read_parquet
from weightspace.data.dataset import PARTS
from weightspace.errors import nearest, problem
from weightspace.weights.spec import Spec, TensorSpec, Weights

State = Mapping[str, Tensor]
# Columns of the zoo as it is, and under names of this package: file, run, epoch, classes, split,
# optimizer, lr, weight_decay, epochs, activation, RESULTS. One that is unknown is not there, or None.
# ``net`` has settings of the architecture that no tensor shows; ``unsupported`` says what none here has.
Row = dict[str, Any]
Member = tuple[Row, Callable[[], State]]
RESULTS = tuple(f"{part}_{kind}" for part in PARTS for kind in ("accuracy", "loss"))
NUMBERS = ("epoch", "lr", "weight_decay", "epochs", *RESULTS)
SHOWN = 6  # names listed in a message


class Reader(Protocol):
    """A module of this package."""

    def members(self, path: Path, table: Path | None) -> Any:
        """Iterator of members."""

    def fit(self, state: State, spec: Spec, where: object) -> Weights:
        """Weights ``(*shape)`` of one network, every tensor of both sides used once."""


@dataclass(frozen=True)
class Kind:
    """One kind of tensor: how it is called there and in this package.

    Attributes:
        theirs: pattern of the end of its name there; what is before it names the layer.
        ours: end of its name in a :class:`weightspace.weights.spec.Spec`.
        axes: number of axes -> order of theirs that makes ours; as it is where there is none.

    """

    theirs: str
    ours: str
    axes: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


PYTORCH = (Kind(".weight", ".weight"), Kind(".bias", ".bias"))  # its axes are those of this package


def fit_by_order(state: State, spec: Spec, kinds: Sequence[Kind], where: object) -> Weights:
    """Weights ``(*shape)`` of one network: the n-th tensor of each kind is the n-th of that kind here.

    Args:
        state: name -> tensor, layer after layer.
        spec: the architecture.
        kinds: the declared table.
        where: what it is, for messages.

    Raises:
        WeightspaceError: a name of no kind, more or fewer layers, a layer without one of its tensors,
            another shape after the transposition, or no plain numbers.

    >>> import torch
    >>> layer = ("weight", (3, 2)), ("bias", (3,))
    >>> spec = Spec("example", tuple(TensorSpec(f"a.{n}", s, "parameter", (None,)) for n, s in layer))
    >>> table = (Kind("/kernel:0", ".weight", {2: (1, 0)}), Kind("/bias:0", ".bias"))
    >>> state = {"dense/bias:0": torch.zeros(3), "dense/kernel:0": torch.ones(2, 3)}
    >>> {name: tuple(w.shape) for name, w in fit_by_order(state, spec, table, "a zoo").items()}
    {'a.weight': (3, 2), 'a.bias': (3,)}

    """
    layers = {kind.theirs: _layers(state, kind) for kind in kinds}
    unknown = set(state).difference(*(names.values() for names in layers.values()))
    if unknown:
        raise problem(
            "tensors of an unknown kind",
            where=where,
            got=some(sorted(unknown)),
            expected=" or ".join(f"*{kind.theirs}" for kind in kinds),
        )
    first = list(layers[kinds[0].theirs])
    for kind in kinds[1:]:
        names = list(layers[kind.theirs])
        if names != first:
            odd = sorted(set(names) ^ set(first)) or names
            raise problem(
                f"layers have no tensor of each kind, in one order: {some(odd)}", where=where
            )
    weights: Weights = {}
    for kind in kinds:
        ours = [t for t in spec.tensors if t.name.endswith(kind.ours)]
        if len(ours) != len(first):
            raise problem(
                f"layers do not match architecture '{spec.architecture}'",
                where=where,
                got=f"{len(first)} layers: {some(first)}",
                expected=f"{len(ours)}: {some([t.name.removesuffix(kind.ours) for t in ours])}",
                do="set its sizes in params.yaml: nets",
            )
        for tensor, name in zip(ours, layers[kind.theirs].values(), strict=True):
            weights[tensor.name] = _fit_tensor(state[name], name, tensor, kind, where)
    spec.check({name: w[None] for name, w in weights.items()}, where)
    return {name: weights[name] for name in spec.names}


def _layers(state: State, kind: Kind) -> dict[str, str]:
    """Layer -> name of its tensor of a kind, in the order of the state."""
    matches = ((name, re.search(f"(?:{kind.theirs})$", name)) for name in state)
    return {name[: match.start()]: name for name, match in matches if match}


def _fit_tensor(value: Tensor, name: str, tensor: TensorSpec, kind: Kind, where: object) -> Tensor:
    """One tensor, transposed as declared, in float32; of the right shape, or an error.

    Args:
        value: as it was stored.
        name: there.
        tensor: here.
        kind: says how axes are ordered.
        where: file, for messages.

    """
    axes = kind.axes.get(value.ndim, tuple(range(value.ndim)))
    turned = value.permute(axes)
    if tuple(turned.shape) != tensor.shape:
        moved = "" if axes == tuple(range(len(axes))) else ", transposed"
        raise problem(
            f"tensor '{name}'{moved}, as '{tensor.name}' has another shape",
            where=where,
            got=tuple(turned.shape),
            expected=tensor.shape,
            do="set the sizes of the architecture in params.yaml: nets",
        )
    if value.is_complex() or value.is_quantized or not value.dtype.is_floating_point:
        raise problem(
            f"tensor '{name}' cannot be used", where=where, got=value.dtype, expected="real numbers"
        )
    return turned.detach().float().contiguous()


def some(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"


def number(value: Any, name: str, where: object) -> float | None:
    """A value of a row as a number; None where it is unknown.

    Args:
        value: a number, its text, or None or "" for unknown.
        name: of the column.
        where: file or row, for messages.

    Raises:
        WeightspaceError: anything else, or an accuracy outside of 0 to 1; NaN passes.

    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        out = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        out = None
    if out is None:
        raise problem(f"column '{name}': not a number", where=where, got=repr(value))
    if name.endswith("_accuracy") and not (0 <= out <= 1 or math.isnan(out)):
        raise problem(f"column '{name}'", where=where, got=out, expected="0 to 1")
    return out


def read_table(path: Path, needed: Sequence[str], **options: Any) -> pd.DataFrame:
    """Read a table of text: CSV, compressed or not, or Parquet.

    Args:
        path: its file.
        needed: columns that it must have.
        options: of :func:`pandas.read_csv`.

    """
    if not path.is_file():
        raise problem("no such file", where=path, expected="a .csv or .parquet table")
    if path.suffix == ".parquet":
        table = read_parquet(path).astype(str)
    else:
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, **options)
        except (ValueError, OSError, EOFError) as error:
            raise problem(f"not a table ({error})", where=path, expected="CSV") from error
    missing = [c for c in needed if c not in table]
    if missing:
        names = [str(c) for c in table]
        raise problem(
            f"column '{missing[0]}' is missing",
            where=path,
            got=some(names),
            do=nearest(missing[0], names),
        )
    if table.empty:
        raise problem("table has no rows", where=path)
    return table


def one_or_none(folder: Path, pattern: str) -> Path | None:
    """The file of a folder that a pattern matches; None without one.

    Raises:
        WeightspaceError: no such folder, or several files.

    """
    if not folder.is_dir():
        raise problem("no such folder", where=folder, expected="the unpacked zoo")
    files = sorted(folder.glob(pattern))
    if len(files) > 1:
        names = some([f.name for f in files])
        raise problem(f"several files {pattern}", where=folder, got=names, expected="one")
    return files[0] if files else None


def no_table(table: Path | None, layout: str) -> None:
    """Refuse a table of results where the layout has its own."""
    if table is not None:
        raise problem(
            "a table that would not be read",
            where=table,
            expected=f"none: layout '{layout}' has its results",
            do="leave out --results",
        )
