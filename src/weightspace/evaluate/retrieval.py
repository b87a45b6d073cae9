"""Which networks fit this (D, R), and which dataset was this network trained on?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.evaluate.metrics import recall_at
from weightspace.sampling.sampler import Sampler
from weightspace.shared_encoders.base import results_of
from weightspace.weights.spec import Weights
from weightspace.zoo.runner import task_losses


@torch.no_grad()
def retrieval(
    sampler: Sampler, members: pd.DataFrame, weights: Weights, z: Tensor
) -> dict[str, float]:
    """Recall of the ordered task, from condition to weights and from weights to condition.

    ``d_to_w``: the (D, R) of each member against the latents of all members. ``w_to_d``: each
    member's latent against all tasks, at the member's own result. ``w_to_d_by_running``: the
    baseline without any latent, each network run on the images of every task, lowest loss first.
    ``_late``: finished runs only.
    """
    shared_encoder, dataset = sampler.shared_encoder, sampler.dataset
    own = torch.tensor(members["task"].to_numpy())
    achieved = _results(sampler, members)
    tasks = own.unique()
    e = shared_encoder.embed(dataset, tasks)  # (T, E)
    latents = shared_encoder.project_latent(z)
    asked = shared_encoder.project(
        shared_encoder.condition(e[torch.searchsorted(tasks, own)], achieved)
    )
    to_weights = asked @ latents.T  # (conditions, members)
    columns = [
        (
            shared_encoder.project(shared_encoder.condition(one.expand(len(z), -1), achieved))
            * latents
        ).sum(1)
        for one in e
    ]
    pairs = {
        "d_to_w": (to_weights, own),
        "w_to_d": (torch.stack(columns, 1), tasks),  # (members, tasks)
        "w_to_d_by_running": (-task_losses(sampler.net, dataset, weights, tasks), tasks),
    }
    late = torch.tensor((members["snapshot"] == members["snapshot"].max()).to_numpy())
    out = {}
    for suffix, rows in (("", torch.ones_like(late)), ("_late", late)):
        for k in (1, 5):
            for name, (similarity, items) in pairs.items():
                recall, chance = recall_at(similarity[rows], own[rows], items, k)
                out[f"{name}_recall_at_{k}{suffix}"] = recall
                out[f"{name}_recall_at_{k}{suffix}_chance"] = chance
    return out


@torch.no_grad()
def heat_map(sampler: Sampler, members: pd.DataFrame, z: Tensor, count: int = 40) -> pd.DataFrame:
    """Cosine of latents against projections of conditions, for one late member of each task."""
    late = members[members["snapshot"] == members["snapshot"].max()]
    late = late.drop_duplicates("task").iloc[:count]
    tasks, shared_encoder = torch.tensor(late["task"].to_numpy()), sampler.shared_encoder
    embedding = shared_encoder.embed(sampler.dataset, tasks)
    conditions = shared_encoder.condition(embedding, _results(sampler, late))
    latents = shared_encoder.project_latent(z[torch.tensor(late.index.to_numpy())])
    similarity = (latents @ shared_encoder.project(conditions).T).numpy()
    names = ["-".join(map(str, c)) for c in sampler.dataset.classes[tasks].tolist()]
    rows = [(a, b, similarity[i, j]) for i, a in enumerate(names) for j, b in enumerate(names)]
    return pd.DataFrame(rows, columns=["weights_of", "condition", "cosine"])


def _results(sampler: Sampler, members: pd.DataFrame) -> Tensor:
    """R of each member ``(N,)``."""
    found = results_of(members, sampler.dataset, sampler.shared_encoder.settings.result)
    return torch.tensor(np.asarray(found), dtype=torch.float32)
