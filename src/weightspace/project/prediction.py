"""What can be read off networks: properties, with the error to expect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from weightspace.autoencoders.base import Autoencoder, encode_members
from weightspace.errors import problem
from weightspace.evaluate.properties import (
    CLASSIFICATION,
    best_predictor,
    predictors,
    score,
    target,
    varying_targets,
)
from weightspace.progress import progress
from weightspace.project.retrieval import latents
from weightspace.weights.spec import Weights
from weightspace.zoo.store import Zoo


@dataclass(frozen=True)
class Predictions:
    """What was read off the weights of some networks, and how far such readings are to be trusted.

    Attributes:
        table: one row per network, one column per property.
        errors: one row per property: error on held-out members of the zoo, and that of a
            constant prediction.

    """

    table: pd.DataFrame
    errors: pd.DataFrame


def predict(zoo: Zoo, autoencoder: Autoencoder, weights: Weights, seed: int) -> Predictions:
    """Predict properties of networks from their latents alone.

    A linear model and boosted trees are fitted on train members, the better one on val is used,
    and its error is measured on ``test_sets``, class sets that nothing was fitted on.

    Args:
        zoo: whose members are learned from.
        autoencoder: weights -> latent.
        weights: networks to be read ``(N, *shape)``.
        seed: of the trees.

    Raises:
        WeightspaceError: the zoo has no members in one of the three splits.

    """
    members = {s: zoo.select(s) for s in ("train", "val", "test_sets")}
    empty = [s for s, table in members.items() if table.empty]
    if empty:
        raise problem(f"zoo has no members in split '{empty[0]}'", where=zoo.folder)
    z = {s: latents(zoo, t, autoencoder).cpu().numpy() for s, t in members.items()}
    given = encode_members(autoencoder, weights).cpu().numpy()
    names = varying_targets(members["train"])
    table, errors = pd.DataFrame(index=range(len(given))), []
    with progress("predict", len(names)) as bar:
        for name in names:
            y = {s: target(t, name) for s, t in members.items()}
            best = best_predictor(predictors(name, seed), z, y)
            table[name] = best.predict(given)
            errors.append(_error(name, y, best.predict(z["test_sets"])))
            bar.advance(note=name)
    return Predictions(table, pd.DataFrame(errors))


def _error(name: str, y: dict[str, np.ndarray], predicted: np.ndarray) -> dict[str, object]:
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
    constant = float(np.abs(truth - y["train"].mean()).mean())
    error = float(np.abs(truth - predicted).mean())
    r2 = score(name, truth, predicted)[f"{name}_r2"]
    return {
        "property": name,
        "error": error,
        "of_a_constant": constant,
        "unit": "mean distance",
        "r2": r2,
    }
