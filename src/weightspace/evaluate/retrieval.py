"""Which networks fit this (D, R), and which dataset was this network trained on?"""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from weightspace.evaluate.metrics import recall_at
from weightspace.sampling.sampler import Condition, Sampler
from weightspace.shared_encoders.base import SharedEncoder
from weightspace.weights.spec import Population
from weightspace.zoo.runner import TaskRunner

RESULTS = 17  # results tried where that of a network is not known


@torch.no_grad()
def retrieval(
    sampler: Sampler, runner: TaskRunner, members: pd.DataFrame, networks: Population, z: Tensor
) -> dict[str, float]:
    """Recall of the ordered task, from condition to weights and from weights to condition.

    ``d_to_w``: the (D, R) of each member against the latents of all members. ``w_to_d``: each
    member's latent against all tasks of every split, its result not known. ``w_to_d_by_running``:
    the baseline without any latent, each network run on the images of every task, lowest loss
    first. ``_late``: finished runs only.

    Args:
        sampler: embeds and projects.
        runner: the tasks.
        members: table of N members.
        networks: their weights.
        z: latents ``(N, L)``.

    """
    model = sampler.shared_encoder
    trained_on = torch.tensor(members["task"].to_numpy())
    achieved = _results(sampler, runner, members)
    tasks = torch.arange(len(runner.dataset.classes))
    e = model.embed(runner.dataset.images["train"], runner.dataset.classes)  # (T, E)
    latents = model.project_latent(z)
    to_weights = model.project(model.condition(e[trained_on], achieved)) @ latents.T
    pairs = {
        "d_to_w": (to_weights.cpu(), trained_on),  # (conditions, members)
        "w_to_d": (most_alike(model, latents, e)[0], tasks),  # (members, tasks)
        "w_to_d_by_running": (-runner.losses_on_all_tasks(networks, tasks), tasks),
    }
    late = torch.tensor((members["snapshot"] == members["snapshot"].max()).to_numpy())
    out = {}
    for suffix, rows in (("", torch.ones_like(late)), ("_late", late)):
        for k in (1, 5):
            for name, (similarity, items) in pairs.items():
                recall, chance = recall_at(similarity[rows], trained_on[rows], items, k)
                out[f"{name}_recall_at_{k}{suffix}"] = recall
                out[f"{name}_recall_at_{k}{suffix}_chance"] = chance
    return out


@torch.no_grad()
def most_alike(model: SharedEncoder, latents: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """How alike N networks and T datasets are at best, and at which result: ``(N, T)`` each.

    The results of the networks are not known: of 17 over the trained range the best one counts.

    Args:
        model: the aligned space.
        latents: projected latents ``(N, P)``.
        e: dataset embeddings ``(T, E)``.

    """
    best = torch.full((len(latents), len(e)), -torch.inf)
    at = torch.empty_like(best)
    for r in torch.linspace(*model.bounds, RESULTS):
        similarity = (latents @ model.project(model.condition(e, r.expand(len(e)))).T).cpu()
        at[similarity > best] = r
        best = best.maximum(similarity)
    return best, at


@torch.no_grad()
def heat_map(
    sampler: Sampler, runner: TaskRunner, members: pd.DataFrame, z: Tensor, count: int = 40
) -> pd.DataFrame:
    """Cosine of latents against projections of conditions, for one late member of each task.

    Args:
        sampler: embeds and projects.
        runner: the tasks.
        members: table of N members.
        z: latents ``(N, L)``.
        count: members at most.

    """
    late = members[members["snapshot"] == members["snapshot"].max()]
    late = late.drop_duplicates("task").iloc[:count]
    tasks, model = torch.tensor(late["task"].to_numpy()), sampler.shared_encoder
    condition = Condition.of_tasks(runner.dataset, tasks, _results(sampler, runner, late))
    projected = model.project(model.condition(sampler.embed(condition), condition.target))
    latents = model.project_latent(z[torch.tensor(late.index.to_numpy())])
    similarity = (latents @ projected.T).cpu().numpy()
    names = ["-".join(map(str, c)) for c in condition.classes.tolist()]
    rows = [(a, b, similarity[i, j]) for i, a in enumerate(names) for j, b in enumerate(names)]
    return pd.DataFrame(rows, columns=["weights_of", "condition", "cosine"])


def _results(sampler: Sampler, runner: TaskRunner, members: pd.DataFrame) -> Tensor:
    """R of every member ``(N,)``, in float32.

    Args:
        sampler: says what R is.
        runner: the tasks.
        members: table of N members.

    """
    achieved = sampler.shared_encoder.result.of_members(members)
    return torch.tensor(achieved, dtype=torch.float32)
