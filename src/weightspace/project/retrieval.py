"""Which networks of the zoo fit a dataset, and which tasks was a network trained on?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch

from weightspace.autoencoders.base import Autoencoder, encode_members
from weightspace.data.dataset import Dataset
from weightspace.data.images import GivenTask
from weightspace.evaluate.retrieval import most_alike
from weightspace.shared_encoders.base import SharedEncoder
from weightspace.weights.spec import Weights
from weightspace.zoo.store import Zoo

if TYPE_CHECKING:
    from weightspace.evaluate.readout import Readout


@torch.no_grad()
def nearest_networks(
    zoo: Zoo,
    readout: Readout,
    shared_encoder: SharedEncoder,
    task: GivenTask,
    target: float,
    count: int,
) -> tuple[pd.DataFrame, Weights]:
    """Members of a zoo that fit a dataset and a result best, in the space of the contrastive loss.

    Args:
        zoo: the networks to choose from; those of diverged runs are left out.
        readout: latents of its members.
        shared_encoder: the aligned space.
        task: the dataset D.
        target: the result R, accuracy or loss in nats.
        count: networks to return, at most.

    Returns:
        Their rows of the members' table with a column ``similarity``, best first; their weights.

    """
    members = zoo.members[~zoo.members["diverged"]].reset_index(drop=True)
    e = shared_encoder.embed(task.images["train"], torch.arange(len(task.classes))[None])
    condition = shared_encoder.project(shared_encoder.condition(e, torch.tensor([target])))
    z = readout.latents_of(members).to(e.device)
    similarity = (shared_encoder.project_latent(z) @ condition.T)[:, 0].cpu()
    best = similarity.argsort(descending=True, stable=True)[:count].numpy()
    table = members.iloc[best].reset_index(drop=True)
    table.insert(0, "similarity", similarity.numpy()[best])
    return table, zoo.weights(table)


@torch.no_grad()
def nearest_tasks(
    dataset: Dataset,
    autoencoder: Autoencoder,
    shared_encoder: SharedEncoder,
    weights: Weights,
    count: int,
) -> list[pd.DataFrame]:
    """Tasks that each of N networks was most likely trained on, best first.

    Args:
        dataset: its tasks.
        autoencoder: weights -> latent.
        shared_encoder: the aligned space.
        weights: networks ``(N, *shape)``.
        count: tasks for each network, at most.

    Returns:
        A table per network: classes, split of the task, similarity, and the result at which it is
        highest.

    """
    latents = shared_encoder.project_latent(encode_members(autoencoder, weights))  # (N, P)
    e = shared_encoder.embed(dataset.images["train"], dataset.classes)  # (T, E)
    similarity, at_result = most_alike(shared_encoder, latents, e)
    out = []
    for row, results in zip(similarity, at_result, strict=True):
        best = row.argsort(descending=True, stable=True)[:count].numpy()
        tasks = dataset.tasks.iloc[best]
        names = [",".join(dataset.class_names[c] for c in t) for t in tasks["classes"]]
        table = pd.DataFrame({"classes": names, "split": tasks["split"].to_numpy()})
        table["similarity"] = row.numpy()[best]
        table[shared_encoder.settings.result] = results.numpy()[best]
        out.append(table)
    return out
