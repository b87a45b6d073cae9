"""What can be read off a network: the latent against raw weights, weight statistics and settings.

Every feature set gets the same two predictors, a linear one and gradient-boosted trees; the better
one on val is reported on the test splits. The class set is read as the presence of each class: no test
class set was seen in training, but its classes were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from weightspace.data.tasks import TEST_SPLITS
from weightspace.evaluate.metrics import r2_identity
from weightspace.progress import progress

REGRESSION = ("test_accuracy", "generalisation_gap", "epoch")
CLASSIFICATION = ("optimizer",)
# shallow trees and few bins: raw weights have thousands of columns
TREES = {
    "max_iter": 100,
    "learning_rate": 0.2,
    "max_leaf_nodes": 8,
    "max_bins": 63,
    "early_stopping": False,
}


@dataclass(frozen=True)
class Features:
    """Members of some splits with one feature matrix ``(N, F)`` per kind of reading.

    Attributes:
        members: split -> table.
        x: name of the reading -> split -> matrix.
        present: split -> bool ``(N, K)``, the classes of each member's task; empty: not measured.

    """

    members: dict[str, pd.DataFrame]
    x: dict[str, dict[str, np.ndarray]]
    present: dict[str, np.ndarray] = field(default_factory=dict)


def hyper_parameters(members: pd.DataFrame) -> np.ndarray:
    """What is known without reading the weights ``(N, 4)``: log rates, length in epochs, optimiser.

    >>> run = {"lr": [1.0], "weight_decay": [1.0], "epochs": [24], "optimizer": ["adam"]}
    >>> hyper_parameters(pd.DataFrame(run)).tolist()
    [[0.0, 0.0, 24.0, 1.0]]
    """
    logs = np.log(members[["lr", "weight_decay"]].to_numpy(float))
    rest = np.stack([members["epochs"], members["optimizer"] == "adam"], 1).astype(float)
    return np.concatenate([logs, rest], 1)


def target(members: pd.DataFrame, name: str) -> np.ndarray:
    """Column to predict ``(N,)``; the generalisation gap is train minus test accuracy.

    The test accuracy of members that predictors are fitted on, or chosen by, is that on val images.

    >>> accuracy = {"train_accuracy": [1.0, 1.0], "val_accuracy": 0.875, "test_accuracy": 0.75}
    >>> members = pd.DataFrame({"split": ["train", "test_sets"], **accuracy})
    >>> target(members, "generalisation_gap").tolist()
    [0.125, 0.25]
    """
    if name not in ("test_accuracy", "generalisation_gap"):
        return members[name].to_numpy()
    test = members["split"].isin(TEST_SPLITS)
    held_out = members["test_accuracy"].where(test, members["val_accuracy"])
    values = members["train_accuracy"] - held_out if name == "generalisation_gap" else held_out
    return values.to_numpy(float)


def varying_targets(train: pd.DataFrame) -> list[str]:
    """Targets that take more than one value: a zoo may have one optimiser only."""
    return [t for t in (*REGRESSION, *CLASSIFICATION) if len(np.unique(target(train, t))) > 1]


def predictors(name: str, seed: int) -> list[Any]:
    """A linear and a tree model for one target."""
    if name in CLASSIFICATION:
        linear = LogisticRegression(C=0.1, max_iter=300)
        trees = HistGradientBoostingClassifier(**TREES, random_state=seed)
    else:
        linear = RidgeCV(np.logspace(-2, 5, 8))
        trees = HistGradientBoostingRegressor(**TREES, random_state=seed)
    return [make_pipeline(StandardScaler(), linear), trees]


def best_predictor(
    models: Sequence[Any],
    x: Mapping[str, np.ndarray],
    y: Mapping[str, np.ndarray],
    quality: Callable[[Any, np.ndarray, np.ndarray], float] | None = None,
) -> Any:
    """Fit models on train members and give the one that is best on val members.

    Args:
        models: of scikit-learn, not fitted.
        x: split -> features ``(N, F)``.
        y: split -> targets ``(N,)`` or ``(N, K)``.
        quality: model, features, targets -> value, higher is better; by default the model's score.

    """
    measure = quality or (lambda model, x, y: model.score(x, y))
    fitted = [model.fit(x["train"], y["train"]) for model in models]
    return max(fitted, key=lambda model: measure(model, x["val"], y["val"]))


def score(name: str, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """R2 and Kendall's tau of a regression, accuracy of a classification.

    Args:
        name: of the target.
        truth: values ``(N,)``.
        predicted: values ``(N,)``.

    >>> score("epoch", np.arange(4.0), np.arange(4.0))
    {'epoch_r2': 1.0, 'epoch_tau': 1.0}
    >>> score("optimizer", np.array(["adam", "sgd"]), np.array(["adam", "adam"]))
    {'optimizer_accuracy': 0.5}

    """
    if name in CLASSIFICATION:
        return {f"{name}_accuracy": float((truth == predicted).mean())}
    r2 = r2_identity(truth, predicted)
    tau = kendalltau(truth, predicted).statistic if np.ptp(predicted) > 0 else 0.0
    return {f"{name}_r2": r2, f"{name}_tau": float(tau)}


def evaluate_properties(features: Features, seed: int) -> dict[str, dict[str, float]]:
    """Metrics per split: ``<reading>_<target>_r2``, ``_tau`` or ``_accuracy``; see :func:`key`."""
    splits = [s for s in features.members if s != "train"]
    out: dict[str, dict[str, float]] = {s: {} for s in splits}
    jobs = [
        (n, t)
        for t in varying_targets(features.members["train"])
        for n in features.x
        if (n, t) != ("hyperparameters", "optimizer")
    ]
    with progress("properties", len(jobs)) as bar:
        for reading, name in jobs:
            for split, (truth, predicted) in predictions(features, reading, name, seed).items():
                scores = score(name, truth, predicted)
                out[split] |= {key(reading, k): v for k, v in scores.items()}
            bar.advance(note=f"{reading}: {name}")
    for split, metrics in class_set_metrics(features, splits, seed).items():
        out[split] |= metrics
    for split in splits:
        out[split] |= _mean_predictor(features, split)
        out[split]["members"] = len(features.members[split])
    return out


def predictions(
    features: Features, reading: str, name: str, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values of one target, and what is read off one reading, both ``(N,)``, of each split but train.

    Args:
        features: the readings.
        reading: name of one of them.
        name: of the target.
        seed: of the trees.

    """
    x = features.x[reading]
    y = {s: target(t, name) for s, t in features.members.items()}
    best = best_predictor(predictors(name, seed), x, y)
    return {split: (y[split], best.predict(x[split])) for split in y if split != "train"}


def key(reading: str, metric: str) -> str:
    """Name of a reading's metric in the file; every reading but the latent is a control.

    >>> key("latent", "epoch_r2"), key("raw_weights", "epoch_r2")
    ('latent_epoch_r2', 'control_raw_weights_epoch_r2')

    """
    return f"{reading}_{metric}" if reading == "latent" else f"control_{reading}_{metric}"


def class_set_metrics(
    features: Features, splits: list[str], seed: int
) -> dict[str, dict[str, float]]:
    """Fractions of right classes, ``<reading>_classes_recall``, and of exact sets, ``_classes_exact``.

    The c classes of the highest score are predicted. ``chance``: any c of the classes that train
    tasks have. Nothing where ``features.present`` is empty.

    Args:
        features: the readings, and which classes are present.
        splits: to be measured.
        seed: of the trees.

    """
    y = {split: present.astype(float) for split, present in features.present.items()}
    if not y:
        return {}
    classes, seen = int(y["train"][0].sum()), int(y["train"].any(0).sum())
    chance = {"recall": classes / seen, "exact": 1 / math.comb(seen, classes)}
    out = {split: {key("chance", f"classes_{k}"): v for k, v in chance.items()} for split in splits}
    for reading, x in features.x.items():
        models = (
            make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 8))),
            ExtraTreesRegressor(50, min_samples_leaf=3, max_features="sqrt", random_state=seed),
        )
        best = best_predictor(models, x, y, lambda m, x, y: set_scores(y, m.predict(x))[0])
        for split in splits:
            recall, exact = set_scores(y[split], best.predict(x[split]))
            out[split][key(reading, "classes_recall")] = recall
            out[split][key(reading, "classes_exact")] = exact
    return out


def set_scores(present: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Fraction of right classes and of exact sets; as many classes are predicted as are present.

    Args:
        present: 1 for the classes of each member's task, else 0 ``(N, K)``.
        score: predicted for each class ``(N, K)``; the highest are chosen.

    >>> set_scores(np.array([[1, 1, 0], [1, 1, 0]]), np.array([[0.9, 0.8, 0.1], [0.9, 0.1, 0.8]]))
    (0.75, 0.5)

    """
    count = int(present[0].sum())
    chosen = np.argsort(-score, axis=1, kind="stable")[:, :count]
    recall = np.take_along_axis(present, chosen, 1).mean(1)
    return float(recall.mean()), float((recall == 1).mean())


def _mean_predictor(features: Features, split: str) -> dict[str, float]:
    """The floor: the train mean, or the most frequent train class."""
    out: dict[str, float] = {}
    for name in varying_targets(features.members["train"]):
        train, truth = (target(features.members[s], name) for s in ("train", split))
        constant = pd.Series(train).mode()[0] if name in CLASSIFICATION else train.mean()
        out |= {
            key("mean", k): v for k, v in score(name, truth, np.full(len(truth), constant)).items()
        }
    return out
