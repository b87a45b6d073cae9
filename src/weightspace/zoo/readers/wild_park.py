"""CNN Wild Park of Kofinas et al. (2024), arXiv 2403.12143: an architecture of its own for each network.

A run is a folder with ``checkpoint_000010/checkpoint.pt``, which holds ``model``, a state_dict, and
``config``, the architecture; ``cnn_park_splits.json`` has paths, test accuracies and steps of each split.
A zoo here has one architecture: choose it by ``--where``, such as ``channels=3-16-8`` and ``residual=none``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from weightspace.errors import problem
from weightspace.weights.spec import Spec, Weights
from weightspace.zoo.readers._pickles import plain, read_stubbed
from weightspace.zoo.readers.base import (
    PYTORCH,
    Member,
    Row,
    State,
    fit_by_order,
    no_table,
    number,
    one_or_none,
)

__all__ = ["fit", "members"]

SPLITS = ("train", "val", "test")
LISTS = ("channels", "kernel_size", "stride", "padding", "residual", "activation")


def members(path: Path, table: Path | None) -> Iterator[Member]:
    """Members of all splits, one run after the other.

    Args:
        path: folder of the splits file and the runs.
        table: None.

    Raises:
        WeightspaceError: no splits, paths out of the folder, in two splits or without a score.

    """
    no_table(table, "wild_park")
    file = one_or_none(path, "*splits*.json")
    if file is None:
        raise problem("no splits", where=path, expected="cnn_park_splits.json")
    rows = sorted(_rows(file), key=lambda row: (row["run"], row["epoch"]))
    for before, row in pairwise(rows):
        if before["file"] == row["file"]:
            raise problem(f"'{row['file']}' is in the splits twice", where=file)
        if before["run"] == row["run"] and before["split"] != row["split"]:
            splits = f"{before['split']}, {row['split']}"
            raise problem(f"run '{row['run']}' is in two splits", where=file, got=splits)
    for row in rows:
        checkpoint = _inside(path, row["file"], file)
        yield row | _architecture(checkpoint), partial(_state, checkpoint)


def fit(state: State, spec: Spec, where: object) -> Weights:
    """Weights ``(*shape)`` of one network, by the declared table."""
    return fit_by_order(state, spec, PYTORCH, where)


def _rows(file: Path) -> Iterator[Row]:
    """Row of each path: its split, run, step and score."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise problem("not a complete JSON file", where=file) from error
    for split in SPLITS:
        part = data.get(split) if isinstance(data, dict) else None
        lists = [part.get(k) if isinstance(part, dict) else None for k in ("path", "score", "step")]
        sizes = {len(values) if isinstance(values, list) else -1 for values in lists}
        if len(sizes) != 1 or -1 in sizes:
            raise problem(
                f"split '{split}'",
                where=file,
                got=sorted(sizes),
                expected="lists path, score and step of one length",
            )
        for i, (name, score, step) in enumerate(zip(*lists, strict=True), 1):  # type: ignore[arg-type]
            where = f"{file}: {split} {i}"
            epoch = number(step, "step", where)
            if not isinstance(name, str) or epoch is None:
                raise problem("no path or no step", where=where, got=f"{name!r}, {step!r}")
            yield {
                "file": name,
                "run": str(PurePosixPath(name).parent.parent),
                "epoch": epoch,
                "split": split,
                "test_accuracy": number(score, "test_accuracy", where),
            }


def _inside(folder: Path, name: str, splits: Path) -> Path:
    """Path of a checkpoint: below the folder, however many of the first folders it has are left out."""
    parts = PurePosixPath(name).parts
    paths = [folder.joinpath(*parts[i:]) for i in range(max(1, len(parts) - 2))]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise problem(f"no file '{name}'", where=splits, expected=f"in {folder}")
    if ".." in parts or not path.resolve().is_relative_to(folder.resolve()):
        raise problem(f"'{name}' is not in {folder}", where=splits)
    return path


def _architecture(file: Path) -> Row:
    """Columns that say what a network is: ``3-16-8`` for a list; ``none`` without residuals."""
    config = plain(_part(file, "config"))
    config = config.get("model", config) if isinstance(config, Mapping) else None
    missing = [k for k in LISTS if not isinstance((config or {}).get(k), list)]
    if config is None or missing:
        raise problem("config says no architecture", where=file, expected=", ".join(LISTS))
    row: Row = {name: "-".join(str(v) for v in config[name]) for name in LISTS}
    row["net"] = {"strides": config["stride"], "padding": config["padding"], "mean": True}
    row["net"]["pools"] = [1] * len(config["stride"])
    activations = sorted({str(a).replace("_", "") for a in config["activation"]})
    row["activations"], row["activation"] = row["activation"], "+".join(activations)
    if all(r == -1 for r in config["residual"]):
        row["residual"] = "none"
    else:
        row["unsupported"] = "residual connections"
    return row


def _part(file: Path, name: str) -> Any:
    """One entry of a checkpoint."""
    data = read_stubbed(file)
    if not isinstance(data, dict) or name not in data:
        got = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise problem(f"no '{name}'", where=file, got=got, expected="model and config")
    return data[name]


def _state(file: Path) -> State:
    """Tensors of a checkpoint, in their order."""
    state = _part(file, "model")
    good = isinstance(state, Mapping) and len(state) > 0
    if not good or not all(isinstance(v, Tensor) for v in state.values()):
        raise problem("'model' is no state_dict", where=file, got=type(state).__name__)
    return {str(name): value for name, value in state.items()}
