"""Networks without a condition: drawn from the latents of train members alone.

* ``prior``: a Gaussian with the mean and the full covariance of the train latents;
* ``kde``: every entry from a kernel density over good members, independent of the other entries;
* ``neighbourhood``: a good member's latent plus noise in every entry, which is a kernel density too.

Good members are finished ones in the upper 30 % by their result. The bandwidth, as a fraction
of an entry's standard deviation, is the one of the highest likelihood of good val members. All latents are projected by
``autoencoder.nearest_valid``. A network is measured on the test images of one task: that of the member it came from,
or else the train task of the lowest loss on train images. The same choice is made for the control
``control_random`` (untrained networks), so that the metric shows what the choice alone gives.

Source: Schuerholt et al. (2022), Hyper-Representations as Generative Models, arXiv 2209.14733.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from weightspace.autoencoders.base import Autoencoder, Decoded, encode_members
from weightspace.evaluate.controls import at_distance, midpoints, untrained
from weightspace.evaluate.metrics import pairwise_agreement
from weightspace.evaluate.novelty import nearest, predictions
from weightspace.rng import stream, torch_stream
from weightspace.weights.lazy import Selected
from weightspace.weights.spec import Networks, Population
from weightspace.zoo.result import Result, accuracies
from weightspace.zoo.runner import TaskRunner
from weightspace.zoo.store import Zoo

GOOD = 0.7  # quantile of the result from which a member is good
BANDWIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
CONTROLS = ("control_noised", "control_average", "control_random")
KINDS = ("prior", "kde", "neighbourhood", "members", *CONTROLS)
METRICS = ("accuracy", "agreement", "weight_distance", "function_distance")


def gaussian(z: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Draws ``(count, L)`` of the normal with the mean and covariance of latents.

    Args:
        z: latents ``(N, L)``, N at least 2.
        count: how many to draw.
        rng: random stream.

    """
    noise = torch.randn(count, len(z), generator=rng) / math.sqrt(len(z) - 1)
    return z.mean(0) + noise @ (z - z.mean(0))


def independent(z: Tensor, count: int, width: Tensor, rng: torch.Generator) -> Tensor:
    """Draws ``(count, L)`` whose entries come from one kernel density each.

    Args:
        z: latents ``(N, L)``.
        count: how many to draw.
        width: of the kernel of each entry ``(L,)``; 0 draws entries of ``z``.
        rng: random stream.

    >>> drawn = independent(torch.eye(3), 5, torch.zeros(3), torch.Generator().manual_seed(0))
    >>> drawn.shape, drawn.unique()
    (torch.Size([5, 3]), tensor([0., 1.]))

    """
    rows = torch.randint(len(z), (count, z.shape[1]), generator=rng)
    return z.gather(0, rows) + width * torch.randn(rows.shape, generator=rng)


def bandwidth(z: Tensor, val: Tensor, *, jointly: bool) -> float:
    """Width of a kernel with the highest likelihood of val latents, of those tried.

    Args:
        z: latents that carry a kernel each ``(N, L)``.
        val: latents whose likelihood counts ``(M, L)``.
        jointly: one kernel over all entries; False: one over each entry.

    Returns:
        A fraction of the standard deviation of an entry.

    >>> z = torch.arange(10.0)[:, None]
    >>> bandwidth(z, z + 0.01, jointly=True)  # each val latent is next to a train latent
    0.05

    """
    scale = z.std(0).clamp_min(1e-6)
    square = ((val[:, None] - z[None]) / scale).square()  # (M, N, L)
    square = square.sum(2, keepdim=True) if jointly else square
    size = z.shape[1] if jointly else 1
    likelihood = [
        ((-square / (2 * h * h)).logsumexp(1) - size * math.log(h)).mean().item()
        for h in BANDWIDTHS
    ]
    return BANDWIDTHS[int(np.argmax(likelihood))]


def good_members(zoo: Zoo, runner: TaskRunner, split: str, limit: int, seed: int) -> pd.DataFrame:
    """At most ``limit`` good members of a split, drawn at random.

    Args:
        zoo: the population.
        runner: the tasks.
        split: of the members.
        limit: members at most.
        seed: root seed.

    """
    members = zoo.select(split, last_only=True)
    result = Result("accuracy").of_members(members)
    rows = np.flatnonzero(result >= np.quantile(result, GOOD))
    rng = stream(seed, "generation", split)
    return members.iloc[np.sort(rng.permutation(rows)[:limit])].reset_index(drop=True)


@torch.no_grad()
def evaluate_generation(
    zoo: Zoo, autoencoder: Autoencoder, runner: TaskRunner, limit: int, seed: int
) -> dict[str, float]:
    """Metrics ``<kind>_<metric>`` of generated networks and of the controls.

    ``accuracy``: mean over networks. ``agreement``: of predictions between networks; low is diverse.
    ``weight_distance`` and ``function_distance``: median distance to the nearest good train member;
    for ``members`` leave-one-out.

    Args:
        zoo: the population.
        autoencoder: weights <-> latent.
        runner: the tasks.
        limit: networks of each kind, and good train members, at most.
        seed: root seed.

    """
    rng = torch_stream(seed, "generation")
    spec = autoencoder.spec
    good = good_members(zoo, runner, "train", limit, seed)
    members, trained_on = zoo.networks(good), good["task"].to_numpy()
    z, count = encode_members(autoencoder, members).cpu(), len(good)
    val = zoo.networks(good_members(zoo, runner, "val", limit, seed))
    z_val, scale = encode_members(autoencoder, val).cpu(), z.std(0)
    joint, single = (bandwidth(z, z_val, jointly=j) for j in (True, False))
    every = encode_members(autoencoder, zoo.networks(zoo.select("train"))).cpu()
    latents = {
        "prior": gaussian(every, count, rng),
        "kde": independent(z, count, single * scale, rng),
        "neighbourhood": z + joint * scale * torch.randn(z.shape, generator=rng),
    }
    made: dict[str, Networks] = {
        kind: Decoded(autoencoder, autoencoder.nearest_valid(latent.to(autoencoder.device)))
        for kind, latent in latents.items()
    }
    made["members"] = members
    made["control_average"] = midpoints(
        spec, members, Selected(members, torch.arange(count).roll(1))
    )
    made["control_random"] = untrained(runner.net, count, rng)
    known, runs = (members, predictions(runner, members)), good["run"].to_numpy()
    out = {"networks": count, "bandwidth_joint": joint, "bandwidth_single": single}
    for kind in KINDS:
        networks = made[kind]
        origin = kind in ("neighbourhood", "members", "control_noised")
        tasks = trained_on if origin else best_tasks(zoo, runner, networks)
        labels = predictions(runner, networks)
        excluded = runs[:, None] == runs[None] if kind == "members" else None
        distance = nearest(spec, (networks, labels), known, excluded)
        if kind == "neighbourhood":
            made["control_noised"] = at_distance(spec, members, distance.weight, rng)
        values = (
            accuracies(runner.outputs(networks, tasks, "test")).mean(),
            pairwise_agreement(labels),
            np.median(distance.weight),
            np.median(distance.function),
        )
        out |= {f"{kind}_{k}": float(v) for k, v in zip(METRICS, values, strict=True)}
    sizes = [p.numel() for p in autoencoder.parameters()]
    return out | {"latent": autoencoder.latent, "parameters": sum(sizes)}


def best_tasks(zoo: Zoo, runner: TaskRunner, networks: Population) -> np.ndarray:
    """Train task ``(N,)`` of the lowest loss of each network on train images.

    Args:
        zoo: whose train tasks count.
        runner: the tasks.
        networks: N of them.

    """
    tasks = torch.from_numpy(np.unique(zoo.select("train")["task"]))
    return tasks[runner.losses_on_all_tasks(networks, tasks).argmin(1)].numpy()
