"""Questions to a finished pipeline: how alike are networks, which fit a dataset, what are they?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.codecs.base import BLOCK, Codec, encode_members
from weightspace.data.dataset import Dataset
from weightspace.errors import problem
from weightspace.evaluate import metrics as m
from weightspace.evaluate.properties import (
    CLASSIFICATION,
    REGRESSION,
    predictors,
    score,
    target,
)
from weightspace.images import GivenTask
from weightspace.networks import Net
from weightspace.on_task import FIRST, outputs
from weightspace.outputs import accuracies
from weightspace.progress import progress
from weightspace.shared.base import SharedModel
from weightspace.spec import Weights, take
from weightspace.zoo.store import Zoo

RESULTS = 17  # results tried where that of a network is not known


def latents(zoo: Zoo, members: pd.DataFrame, codec: Codec) -> Tensor:
    """Latents ``(N, L)`` of rows of the members' table, with progress."""
    weights, out = zoo.weights(members), []
    with progress("encode zoo", len(members)) as bar:
        for start in range(0, len(members), BLOCK):
            out.append(encode_members(codec, take(weights, slice(start, start + BLOCK))))
            bar.advance(len(out[-1]))
    return torch.cat(out)


def compare(net: Net, a: Weights, b: Weights, task: GivenTask) -> pd.DataFrame:
    """How alike networks behave on all images of a task, pair by pair.

    Args:
        net: the architecture.
        a: networks ``(N, *shape)``.
        b: as many others.
        task: the images.

    Returns:
        One row per pair: cosine, correlation, agreement, agreement_chance, kappa, and the
        accuracies of both.

    """
    counts = [net.spec.check(weights) for weights in (a, b)]
    if counts[0] != counts[1]:
        raise problem(
            "as many networks on both sides are needed", found=f"{counts[0]}, {counts[1]}"
        )
    y, other = (
        torch.cat([outputs(net, weights, task, part) for part in task.parts], 1)
        for weights in (a, b)
    )
    scores = (m.cosine, m.correlation, m.agreement, m.chance_agreement, m.kappa)
    names = ("cosine", "correlation", "agreement", "agreement_chance", "kappa")
    table = pd.DataFrame({n: f(y, other).numpy() for n, f in zip(names, scores, strict=True)})
    for name, weights in (("accuracy_a", a), ("accuracy_b", b)):
        found = [accuracies(outputs(net, weights, task, part)) for part in task.parts]
        sizes = torch.tensor([float(n) for n in task.images_per_class.values()])
        table[name] = ((torch.stack(found) * sizes[:, None]).sum(0) / sizes.sum()).numpy()
    return table


@torch.no_grad()
def nearest_networks(
    zoo: Zoo, codec: Codec, shared: SharedModel, task: GivenTask, result: float, count: int
) -> tuple[pd.DataFrame, Weights]:
    """Members of a zoo that fit a dataset and a result best, in the space of the contrastive loss.

    Args:
        zoo: the networks to choose from; those of diverged runs are left out.
        codec: weights -> latent.
        shared: the aligned space.
        task: the dataset D.
        result: the result R.
        count: networks to return.

    Returns:
        Their rows of the members' table with a column ``similarity``, best first; their weights.

    """
    members = zoo.members[~zoo.members["diverged"]].reset_index(drop=True)
    z = latents(zoo, members, codec)
    e = shared.embed(task.dataset, FIRST)
    wanted = shared.project(shared.condition(e, torch.tensor([result])))
    similarity = (shared.project_latent(z) @ wanted.T)[:, 0]
    best = similarity.argsort(descending=True, stable=True)[:count].numpy()
    table = members.iloc[best].reset_index(drop=True)
    table.insert(0, "similarity", similarity.numpy()[best])
    return table, zoo.weights(table)


@torch.no_grad()
def nearest_tasks(
    dataset: Dataset, codec: Codec, shared: SharedModel, weights: Weights, count: int
) -> list[pd.DataFrame]:
    """Tasks that each of N networks was most likely trained on, best first.

    The result of a network is not asked for: the best of 17 results over the trained range counts.

    Returns:
        A table per network: classes, split of the task, similarity, and the result at which it is
        highest.

    """
    latents = shared.project_latent(encode_members(codec, weights))  # (N, P)
    low, high = shared.range.tolist()
    grid = torch.linspace(low, high, RESULTS)
    e = shared.embed(dataset, torch.arange(len(dataset.tasks)))  # (T, E)
    every = torch.stack(
        [latents @ shared.project(shared.condition(e, r.expand(len(e)))).T for r in grid]
    )  # (R, N, T)
    similarity, which = every.max(0)
    out = []
    for row, place in zip(similarity, which, strict=True):
        best = row.argsort(descending=True, stable=True)[:count].numpy()
        tasks = dataset.tasks.iloc[best]
        names = [",".join(dataset.class_names[c] for c in t) for t in tasks["classes"]]
        table = pd.DataFrame({"classes": names, "split": tasks["split"].to_numpy()})
        table["similarity"] = row.numpy()[best]
        table[shared.settings.result] = grid.numpy()[place.numpy()[best]]
        out.append(table)
    return out


@dataclass(frozen=True)
class Predictions:
    """What was read off the weights of some networks, and how far such readings are to be trusted.

    Attributes:
        table: one row per network, one column per property.
        errors: one row per property: error on held-out members of the zoo beside that of a
            constant prediction.

    """

    table: pd.DataFrame
    errors: pd.DataFrame


def predict(zoo: Zoo, codec: Codec, weights: Weights, seed: int) -> Predictions:
    """Predict properties of networks from their latents alone.

    A linear model and boosted trees are fitted on train members, the better one on val is used,
    and its error is measured on ``test_sets``, class sets that nothing was fitted on.
    """
    members = {s: zoo.select(s) for s in ("train", "val", "test_sets")}
    empty = [s for s, table in members.items() if table.empty]
    if empty:
        raise problem(f"zoo has no members in split '{empty[0]}'", where=zoo.folder)
    z = {s: latents(zoo, t, codec).numpy() for s, t in members.items()}
    mine = encode_members(codec, weights).numpy()
    names = (*REGRESSION, *CLASSIFICATION)
    varying = [n for n in names if len(np.unique(target(members["train"], n))) > 1]
    table, errors = pd.DataFrame(index=range(len(mine))), []
    with progress("predict", len(varying)) as bar:
        for name in varying:
            y = {s: target(t, name) for s, t in members.items()}
            best = max(
                (p.fit(z["train"], y["train"]) for p in predictors(name, seed)),
                key=lambda p: p.score(z["val"], y["val"]),
            )
            table[name] = best.predict(mine)
            errors.append(_error(name, y, best.predict(z["test_sets"])))
            bar.advance(note=name)
    return Predictions(table, pd.DataFrame(errors))


def _error(name: str, y: dict[str, np.ndarray], predicted: np.ndarray) -> dict[str, object]:
    """Error of one property on held-out members, beside that of a constant."""
    truth = y["test_sets"]
    if name in CLASSIFICATION:
        values, counts = np.unique(y["train"], return_counts=True)
        constant = float((truth != values[counts.argmax()]).mean())
        wrong = 1 - score(name, truth, predicted)[f"{name}_accuracy"]
        return {"property": name, "error": wrong, "of_a_constant": constant, "unit": "share wrong"}
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
