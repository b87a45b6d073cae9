"""How alike two networks behave on the images of a task."""

from __future__ import annotations

import pandas as pd
import torch

from weightspace.data.images import GivenTask
from weightspace.errors import problem
from weightspace.evaluate import metrics as m
from weightspace.nets.base import Net
from weightspace.project.finetuning import outputs
from weightspace.weights.spec import Weights
from weightspace.zoo.result import accuracies


def compare(net: Net, a: Weights, b: Weights, task: GivenTask) -> pd.DataFrame:
    """How alike networks behave on all images of a task, pair by pair.

    Args:
        net: the architecture.
        a: networks ``(N, *shape)``.
        b: as many others ``(N, *shape)``.
        task: the images.

    Returns:
        One row per pair: cosine, correlation, agreement, agreement_chance, kappa, and the
        accuracies of both.

    Raises:
        WeightspaceError: weights of another architecture, or not as many in ``b`` as in ``a``.

    """
    counts = [net.spec.check(weights) for weights in (a, b)]
    if counts[0] != counts[1]:
        raise problem("as many networks on both sides are needed", got=f"{counts[0]}, {counts[1]}")
    y, other = (
        torch.cat([outputs(net, weights, task, part) for part in task.parts], 1)
        for weights in (a, b)
    )
    scores = (m.cosine, m.correlation, m.agreement, m.chance_agreement, m.kappa)
    names = ("cosine", "correlation", "agreement", "agreement_chance", "kappa")
    table = pd.DataFrame({n: f(y, other).numpy() for n, f in zip(names, scores, strict=True)})
    for name, weights in (("accuracy_a", a), ("accuracy_b", b)):
        of_parts = [accuracies(outputs(net, weights, task, part)) for part in task.parts]
        sizes = torch.tensor([float(n) for n in task.images_per_class.values()])
        table[name] = ((torch.stack(of_parts) * sizes[:, None]).sum(0) / sizes.sum()).numpy()
    return table
