"""Folders of Ray Tune, as the zoos of Schürholt et al. (2022), arXiv 2209.14764, come.

A run is a folder ``NN_tune_trainable_*`` with ``params.json``, ``result.json`` (a line of JSON per epoch)
and ``checkpoint_5/checkpoints`` or ``checkpoint_000005/checkpoints``: a bare state_dict, in a file without
a suffix. Its tensors are ``module_list.{i}.weight``; the numbers depend on dropout, their order does not. Those of
ResNet-18 are torchvision's, whose class theirs is, with a stem of 3x3 and stride 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from weightspace.errors import problem
from weightspace.weights.checkpoints import fit_state, read_pickled
from weightspace.weights.spec import Spec, Weights
from weightspace.zoo.readers._pickles import Stub, read_stubbed
from weightspace.zoo.readers.base import (
    PYTORCH,
    Member,
    Row,
    State,
    fit_by_order,
    no_table,
    number,
    some,
)

__all__ = ["fit", "members", "read_images"]

SETTINGS = {  # params.json -> column here
    "model::nlin": "activation",
    "optim::optimizer": "optimizer",
    "optim::lr": "lr",
    "optim::wd": "weight_decay",
    "training::epochs_train": "epochs",
}
LOGGED = {f"{part}_acc": f"{part}_accuracy" for part in ("train", "val", "validation", "test")}
LOGGED = {k: v.replace("validation", "val") for k, v in LOGGED.items()}
LOGGED |= {f"{part}_loss": f"{part}_loss" for part in ("train", "val", "test")}
# What no tensor of their networks shows
PLAIN = {"strides": [1, 1, 1], "padding": [0, 0, 0], "mean": False}
MODELS = {
    "CNN": PLAIN | {"pools": [2, 2, 1]},
    "CNN2": PLAIN | {"pools": [2, 2, 1]},
    "CNN3": PLAIN | {"pools": [2, 2, 2]},
    "Resnet18": {"stem": "small", "activation": "relu"},  # whatever model::nlin says
}
NOT_MEASURED = -999  # what they log for the running train results before the first epoch
RUN, CHECKPOINT = "NN_tune_trainable_*", re.compile(r"checkpoint_(\d+)$")
MODULE = re.compile(r"module_list\.(\d+)\.(weight|bias)$")


def members(path: Path, table: Path | None) -> Iterator[Member]:
    """Members of all runs, one run after the other.

    Args:
        path: folder of the experiment.
        table: None.

    Raises:
        WeightspaceError: no runs, a run without its files, lines that are no JSON, no results of an
            epoch, two checkpoints of one.

    """
    no_table(table, "ray_tune")
    if not path.is_dir():
        raise problem("no such folder", where=path, expected="the unpacked zoo")
    runs = sorted(folder for folder in path.glob(RUN) if folder.is_dir())
    if not runs:
        raise problem(f"no folder {RUN}", where=path, expected="the folder that holds the runs")
    for run in runs:
        yield from _run(run)


def fit(state: State, spec: Spec, where: object) -> Weights:
    """Weights ``(*shape)`` of one network, by the declared table; those of a ResNet by name."""
    if spec.architecture == "resnet18":
        return fit_state(state, spec, where)
    return fit_by_order(_by_module(state, where), spec, PYTORCH, where)


def read_images(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images and labels of ``dataset.pt``, as the networks saw them: standardised by their authors.

    Args:
        path: the file, whose classes become stubs: nothing in it is run.

    Returns:
        ``trainset``, ``valset``, ``testset``, those there are: float32 ``(n, C, H, W)``, int64 ``(n,)``.

    """
    data = read_stubbed(path)
    out = {}
    for name in ("trainset", "valset", "testset"):
        value = data.get(name) if isinstance(data, dict) else None
        if value is None:
            continue
        out[name] = _pair(value, name, path)
    if not out:
        raise problem("no images", where=path, expected="trainset, valset, testset")
    return out


def _pair(value: Any, name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a stub of a TensorDataset."""
    state = value.state if isinstance(value, Stub) else None
    pair = state.get("tensors") if isinstance(state, dict) else None
    tensors = [t for t in pair if isinstance(t, Tensor)] if isinstance(pair, tuple) else []
    if len(tensors) != 2 or tensors[0].ndim != 4 or tensors[1].shape != tensors[0].shape[:1]:
        raise problem(
            f"'{name}' has no images and labels",
            where=path,
            expected="a TensorDataset of images (n, C, H, W) and labels (n,)",
        )
    return tensors[0].float().numpy(), tensors[1].long().numpy()


def _run(run: Path) -> Iterator[Member]:
    """Members of one run, by rising epochs."""
    checkpoints = _checkpoints(run)
    settings, results = _settings(run / "params.json"), _results(run / "result.json")
    columns = {here: settings.get(there) for there, here in SETTINGS.items()}
    net = MODELS.get(str(settings.get("model::type")), {})
    common = settings | columns | {"run": run.name, "net": net}
    first = min(results)
    for epoch, folder in checkpoints.items():
        if epoch not in results and epoch >= first:  # what is saved before training may have none
            raise problem(
                f"no results of epoch {epoch}, which has a checkpoint",
                where=run / "result.json",
                got=f"epochs {first} to {max(results)}",
            )
        file = folder / "checkpoints"
        row: Row = common | results.get(epoch, {}) | {"epoch": float(epoch), "file": str(file)}
        yield row, partial(read_pickled, file)


def _checkpoints(run: Path) -> dict[int, Path]:
    """Epoch -> folder, by rising epochs."""
    out: dict[int, Path] = {}
    for folder in sorted(run.iterdir()):
        match = CHECKPOINT.fullmatch(folder.name)
        if not match:
            continue
        epoch = int(match[1])
        if epoch in out:
            names = f"{out[epoch].name}, {folder.name}"
            raise problem(f"two checkpoints of epoch {epoch}", where=run, got=names)
        out[epoch] = folder
    if not out:
        raise problem("run without checkpoints", where=run, expected="folders checkpoint_EPOCH")
    return dict(sorted(out.items()))


def _settings(file: Path) -> dict[str, Any]:
    """Settings of a run."""
    data = _parse(_text(file), str(file))
    if not isinstance(data, dict):
        raise problem("not a table of settings", where=file, got=type(data).__name__)
    return data


def _results(file: Path) -> dict[int, Row]:
    """Epoch -> what was logged for it: a line each, in the order of the epochs.

    Lines without ``training_iteration`` count from 1, the first epoch.
    """
    out: dict[int, Row] = {}
    lines = [line for line in _text(file).splitlines() if line.strip()]
    for i, line in enumerate(lines, 1):
        where = f"{file}: line {i}"
        data = _parse(line, where)
        if not isinstance(data, dict):
            raise problem("not a table of results", where=where, got=type(data).__name__)
        epoch = number(data.get("training_iteration", i), "training_iteration", where)
        if epoch is None or epoch != int(epoch) or int(epoch) in out:
            got = data.get("training_iteration")
            raise problem("epoch is no integer, or stands twice", where=where, got=repr(got))
        row = {}
        for there, here in LOGGED.items():
            if there in data and data[there] != NOT_MEASURED:
                row[here] = number(data[there], here, where)
        out[int(epoch)] = row
    if not out:
        raise problem("no results", where=file, expected="a line of JSON per epoch")
    return out


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise problem(f"no {file.name}", where=file.parent) from error
    except (OSError, UnicodeDecodeError) as error:
        raise problem(f"cannot be read ({type(error).__name__})", where=file) from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise problem("not a complete line of JSON", where=where, got=text[:80]) from error


def _by_module(state: State, where: object) -> State:
    """Tensors of a checkpoint by rising numbers of their modules."""
    numbers = {name: MODULE.search(name) for name in state}
    odd = [name for name, match in numbers.items() if not match]
    if odd:
        raise problem(
            "tensors of no module", where=where, got=some(odd), expected="module_list.NUMBER.weight"
        )
    order = sorted(state, key=lambda name: (int(numbers[name][1]), name.endswith("bias")))  # type: ignore[index]
    return {name: state[name] for name in order}
