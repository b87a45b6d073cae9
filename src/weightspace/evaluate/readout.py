"""Latents of a zoo and what was fitted to read properties off them, as one file.

The stage that measures the readings leaves it, so that `weightspace predict` and `weightspace retrieve`
need not encode the zoo again. Linear models and trees are tensors in it; no code is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.pipeline import Pipeline
from torch import Tensor

from weightspace.artifacts import (
    Form,
    check_tensors,
    finite,
    load_tensors,
    rebuilding,
    save_tensors,
)
from weightspace.errors import problem
from weightspace.evaluate.properties import (
    CLASSIFICATION,
    best_predictor,
    predictors,
    score,
    target,
    varying_targets,
)

KIND, AGAIN = "readout", "run `dvc repro evaluate_properties`"
Arrays = dict[str, np.ndarray]
LATENTS: dict[str, Form] = {"member": (torch.int64, ("N",)), "z": (torch.float32, ("N", "L"))}


@dataclass(frozen=True)
class Readout:
    """A predictor of each property, and the error to expect of it.

    Attributes:
        models: property -> arrays of its predictor, see :func:`arrays_of`.
        classes: property -> values that it can take, of those that are no numbers.
        errors: of each property on held-out members, and that of a constant prediction.
        members: numbers of the N members of the zoo that were encoded ``(N,)``.
        latents: their latents ``(N, L)``.
        autoencoder: hash of the autoencoder whose latents are read.

    """

    models: dict[str, Arrays]
    classes: dict[str, list[str]]
    errors: list[dict[str, Any]]
    members: np.ndarray
    latents: np.ndarray
    autoencoder: str

    @classmethod
    def fit(
        cls,
        z: Mapping[str, np.ndarray],
        members: Mapping[str, pd.DataFrame],
        autoencoder: str,
        seed: int,
    ) -> Readout:
        """Fit a linear model and trees on train members; the better one on val is chosen.

        Args:
            z: split -> latents ``(N, L)``, those of any splits; the error is that on ``test_sets``.
            members: split -> table of the same N networks.
            autoencoder: hash of the file that encodes.
            seed: of the trees.

        """
        models: dict[str, Arrays] = {}
        classes, errors = {}, []
        for name in varying_targets(members["train"]):
            y = {split: target(table, name) for split, table in members.items()}
            best = best_predictor(predictors(name, seed), z, y)
            models[name] = arrays_of(best)
            if name in CLASSIFICATION:
                classes[name] = [str(value) for value in best.classes_]
            errors.append(_error(name, y, best.predict(z["test_sets"])))
        numbers = np.concatenate([members[split]["member"].to_numpy(np.int64) for split in z])
        latents = np.concatenate(list(z.values()))
        return cls(models, classes, errors, numbers, latents, autoencoder)

    def predict(self, z: np.ndarray) -> pd.DataFrame:
        """Properties of latents ``(N, L)``: one row per network, one column per property."""
        table = {}
        for name, model in self.models.items():
            raw = evaluate(model, z)
            if name not in self.classes:
                table[name] = raw[:, 0]
                continue
            chosen = raw.argmax(1) if raw.shape[1] > 1 else (raw[:, 0] > 0).astype(int)
            table[name] = np.array(self.classes[name])[chosen]
        return pd.DataFrame(table, index=range(len(z)))

    def latents_of(self, members: pd.DataFrame) -> Tensor:
        """Latents ``(N, L)`` of members of the zoo.

        Raises:
            WeightspaceError: one of them was not encoded.

        """
        rows = pd.Index(self.members).get_indexer(pd.Index(members["member"]))
        if (rows < 0).any():
            raise problem("latents of another zoo", where="data/readout", do=AGAIN)
        return torch.from_numpy(self.latents[rows])

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {"member": torch.from_numpy(self.members), "z": torch.from_numpy(self.latents)}
        tensors |= {
            f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(value))
            for name, model in self.models.items()
            for part, value in model.items()
        }
        meta = {
            "autoencoder": self.autoencoder,
            "properties": list(self.models),
            "classes": self.classes,
            "errors": [finite(row) for row in self.errors],
        }
        save_tensors(path, KIND, tensors, meta)


def load_readout(path: Path, autoencoder: str) -> Readout:
    """Read what :meth:`Readout.save` wrote.

    Args:
        path: its file.
        autoencoder: hash of the autoencoder whose latents are to be read.

    Raises:
        WeightspaceError: no such file, a damaged one, or of another autoencoder.

    """
    tensors, meta = load_tensors(path, KIND)
    with rebuilding(path):
        models: dict[str, dict[str, Any]] = {name: {} for name in meta["properties"]}
        rest = {"member": tensors.pop("member"), "z": tensors.pop("z")}
        check_tensors(path, rest, LATENTS)
        numbers, latents = (value.numpy() for value in rest.values())
        for key, value in tensors.items():
            name, _, part = key.partition(".")
            models[name][part] = value.double() if value.dtype == torch.float32 else value
        classes, errors = dict(meta["classes"]), list(meta["errors"])
        for name, model in models.items():
            check_model(path, model, latents.shape[1], len(classes.get(name, "1")))
            models[name] = {part: value.numpy() for part, value in model.items()}
        readout = Readout(models, classes, errors, numbers, latents, str(meta["autoencoder"]))
    if readout.autoencoder != autoencoder:
        raise problem("fitted on latents of another autoencoder", where=path, do=AGAIN)
    return readout


def check_model(path: Path, model: Mapping[str, Tensor], features: int, values: int) -> None:
    """Refuse a predictor that :func:`evaluate` could not follow to an end.

    Args:
        path: its file.
        model: arrays as tensors, see :func:`arrays_of`.
        features: L, columns that it reads.
        values: that the property can take; 1 for a number.

    """
    outputs = 1 if values == 2 else values
    if "coefficients" in model:
        of_column, of_output = (torch.float64, (features,)), (torch.float64, (outputs,))
        forms: dict[str, Form] = {"mean": of_column, "scale": of_column, "intercept": of_output}
        check_tensors(path, model, forms | {"coefficients": (torch.float64, (outputs, features))})
        return
    node: Form = (torch.int64, ("nodes",))
    forms = dict.fromkeys(("feature", "left", "right"), node)
    forms |= dict.fromkeys(("threshold", "value"), (torch.float64, ("nodes",)))
    forms |= {"root": (torch.int64, ("rounds", outputs)), "intercept": (torch.float64, (outputs,))}
    check_tensors(path, model, forms)
    count = len(model["feature"])
    itself = torch.arange(count)
    left, right, root = model["left"], model["right"], model["root"]
    leaf = (left == itself) & (right == itself)
    inner = (left > itself) & (right > itself) & (left < count) & (right < count)
    roots, columns = (root >= 0) & (root < count), model["feature"]
    if not ((leaf | inner).all() and roots.all() and ((columns >= 0) & (columns < features)).all()):
        raise problem("trees that do not end in leaves", where=path, do=AGAIN)


def arrays_of(model: Any) -> Arrays:
    """All that a fitted predictor of :func:`predictors` needs, as arrays.

    A linear one has ``mean`` and ``scale`` of the columns ``(F,)``, ``coefficients`` ``(K, F)`` and
    ``intercept`` ``(K,)``; K is 1 but for three or more classes. Trees have the nodes of all of
    them one after the other, ``root`` ``(rounds, K)`` and ``intercept``; a leaf is its own child.
    """
    if isinstance(model, Pipeline):
        scaler, linear = model[0], model[-1]
        return {
            "mean": scaler.mean_,
            "scale": scaler.scale_,
            "coefficients": np.atleast_2d(linear.coef_),
            "intercept": np.atleast_1d(linear.intercept_),
        }
    trees = [tree.nodes for of_round in model._predictors for tree in of_round]
    first = np.cumsum([0, *(len(nodes) for nodes in trees)])
    nodes, offset = np.concatenate(trees), np.repeat(first[:-1], np.diff(first))
    leaf, itself = nodes["is_leaf"].astype(bool), np.arange(first[-1])
    return {
        "feature": np.where(leaf, 0, nodes["feature_idx"]),
        "threshold": nodes["num_threshold"],
        "left": np.where(leaf, itself, nodes["left"] + offset),
        "right": np.where(leaf, itself, nodes["right"] + offset),
        "value": nodes["value"],
        "root": first[:-1].reshape(len(model._predictors), -1),
        "intercept": model._baseline_prediction[0],
    }


def evaluate(model: Arrays, x: np.ndarray) -> np.ndarray:
    """What a predictor gives for rows ``(N, F)``, before the choice of a class: ``(N, K)``.

    Args:
        model: from :func:`arrays_of`.
        x: features.

    >>> line = {"mean": np.zeros(1), "scale": np.ones(1)}
    >>> line |= {"coefficients": np.array([[2.0]]), "intercept": np.array([1.0])}
    >>> evaluate(line, np.array([[3.0]]))
    array([[7.]])

    """
    x = x.astype(np.float64)
    if "coefficients" in model:
        standard = (x - model["mean"]) / model["scale"]
        linear: np.ndarray = standard @ model["coefficients"].T + model["intercept"]
        return linear
    rows = np.arange(len(x))
    node = np.broadcast_to(model["root"][..., None], (*model["root"].shape, len(x)))
    while True:  # one level of all trees at once: (rounds, K, N)
        goes_left = x[rows, model["feature"][node]] <= model["threshold"][node]
        below = np.where(goes_left, model["left"][node], model["right"][node])
        if (below == node).all():
            out: np.ndarray = model["value"][node].sum(0).T + model["intercept"]
            return out
        node = below


def _error(name: str, y: Mapping[str, np.ndarray], predicted: np.ndarray) -> dict[str, Any]:
    """Error of one property on held-out members, and that of a constant prediction.

    Args:
        name: of the property.
        y: split -> values ``(N,)``; the constant is of train members.
        predicted: for the members of ``test_sets``.

    """
    truth = y["test_sets"]
    if name in CLASSIFICATION:
        values, counts = np.unique(y["train"], return_counts=True)
        constant = float((truth != values[counts.argmax()]).mean())
        wrong = 1 - score(name, truth, predicted)[f"{name}_accuracy"]
        return {
            "property": name,
            "error": wrong,
            "of_a_constant": constant,
            "unit": "fraction wrong",
        }
    return {
        "property": name,
        "error": float(np.abs(truth - predicted).mean()),
        "of_a_constant": float(np.abs(truth - y["train"].mean()).mean()),
        "unit": "mean distance",
        "r2": score(name, truth, predicted)[f"{name}_r2"],
    }
