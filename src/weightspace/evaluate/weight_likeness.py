"""What it costs that drawn networks are told from trained ones by their weights.

Draws behave as trained networks do and have other weights: all are near one network, the decoder's. Three
changes make their weights more like those of trained networks, each by a *donor*, a train member of like
result whose hidden units are matched as those of the draw are:

* hidden units are scaled to the norms of the donor's, and what reads them by the inverse: with ReLU the
  outputs stay the same;
* tensors are scaled to the norms of the donor's;
* a fraction of what the autoencoder loses of the donor is added: the donor without its reconstruction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
from torch import Tensor

from weightspace.autoencoders.base import decode_latents, encode_members
from weightspace.evaluate.baselines import measured
from weightspace.evaluate.distribution import told_apart
from weightspace.evaluate.evaluation import Evaluation
from weightspace.rng import stream, torch_stream
from weightspace.sampling.sampler import Condition
from weightspace.weights.matching import align
from weightspace.weights.spec import Spec, Weights, take

# Draws, a donor of each, what its reconstruction lacks -> changed draws, (N, *shape) each
Change = Callable[[Weights, Weights, Weights], Weights]
NEAREST = 64  # members of the nearest results, one of which is the donor
FRACTIONS = (0.25, 0.5, 1.0)  # of what the autoencoder loses


def weight_likeness(evaluation: Evaluation, split: str) -> list[dict[str, float | str]]:
    """Rows of ``change``, how well draws follow requests and how well they are told from members.

    Args:
        evaluation: what draws, and the members.
        split: test split.

    """
    donors, spec = Donors(evaluation), evaluation.zoo.spec
    changes: dict[str, Change] = {
        "none": lambda drawn, *_: drawn,
        "units": lambda drawn, donor, _: with_unit_norms(spec, drawn, donor),
        "norms": lambda drawn, donor, _: with_norms(drawn, donor),
        **{f"lost_{fraction:g}": partial(_with_lost, fraction) for fraction in FRACTIONS},
    }
    grid = evaluation.grid(evaluation.tasks(split))
    requests = grid.condition(evaluation.runner.dataset)
    rows: list[dict[str, float | str]] = []
    for name, change in changes.items():
        draw = partial(_changed, donors, change)
        told = told_apart(evaluation, split, draw)
        row: dict[str, float | str] = {"change": name}
        row |= measured(evaluation, grid, draw(requests), split)
        rows.append(row | dict[str, float | str](told))
    return rows


def _changed(donors: Donors, change: Change, condition: Condition) -> Weights:
    return change(*donors.beside(condition))


def _with_lost(fraction: float, drawn: Weights, _: Weights, lost: Weights) -> Weights:
    return {name: w + fraction * lost[name] for name, w in drawn.items()}


@dataclass(frozen=True)
class Donors:
    """Train members and draws, hidden units matched to those of one network.

    Attributes:
        evaluation: what draws, and the members.

    """

    evaluation: Evaluation

    @cached_property
    def members(self) -> pd.DataFrame:
        """The train members."""
        return self.evaluation.zoo.select("train")

    @cached_property
    def reference(self) -> Weights:
        """The first finished one ``(1, *shape)``, to which units are matched."""
        zoo = self.evaluation.zoo
        return zoo.weights(zoo.select("train", last_only=True).iloc[:1])

    def matched(self, weights: Mapping[str, Tensor]) -> Weights:
        """Networks ``(N, *shape)`` in the order of the reference's units."""
        return align(self.evaluation.zoo.spec, self.reference, weights)

    def beside(self, condition: Condition) -> tuple[Weights, Weights, Weights]:
        """Draws in one pass, a donor of each, and what its reconstruction lacks, ``(N, *shape)`` each.

        Args:
            condition: N requests.

        """
        evaluation = self.evaluation
        sampler, seed = evaluation.sampler, evaluation.params.seed
        z = sampler.latents(condition, 1, torch_stream(seed, "likeness", "draws"))
        results = evaluation.result.of_members(self.members)
        distance = np.abs(results - condition.target.numpy()[:, None])
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEAREST]
        chosen = stream(seed, "likeness", "donors").integers(nearest.shape[1], size=len(nearest))
        rows = nearest[np.arange(len(nearest)), chosen]
        donors = evaluation.zoo.weights(self.members.iloc[rows])
        made = decode_latents(sampler.autoencoder, encode_members(sampler.autoencoder, donors))
        drawn, donor, rebuilt = (
            self.matched(w) for w in (take(sampler.networks(z), slice(None)), donors, made)
        )
        return drawn, donor, {name: w - rebuilt[name] for name, w in donor.items()}


def with_norms(weights: Mapping[str, Tensor], donor: Mapping[str, Tensor]) -> Weights:
    """Networks ``(N, *shape)`` whose tensors have the norms of the donor's.

    >>> import torch
    >>> with_norms({"a": torch.tensor([[3.0, 4.0]])}, {"a": torch.tensor([[0.0, 10.0]])})
    {'a': tensor([[6., 8.]])}
    """

    def norm(w: Tensor) -> Tensor:
        norms: Tensor = w.flatten(1).norm(dim=1).clamp_min(1e-12)
        return norms.view(-1, *[1] * (w.ndim - 1))

    return {name: w * (norm(donor[name]) / norm(w)) for name, w in weights.items()}


def with_unit_norms(
    spec: Spec, weights: Mapping[str, Tensor], donor: Mapping[str, Tensor]
) -> Weights:
    """Networks ``(N, *shape)`` whose hidden units have the norms of the donor's; ReLU keeps the outputs.

    Args:
        spec: the architecture; its activation must be ReLU, without normalisation.
        weights: N networks.
        donor: one for each.

    """
    out = dict(weights)
    for group in spec.groups:
        makes = next(t for t in spec.tensors if t.axes[0] and t.axes[0].group == group)
        norms = [w[makes.name].flatten(2).norm(dim=2).clamp_min(1e-12) for w in (donor, out)]
        factor = norms[0] / norms[1]  # (N, units)
        for tensor in spec.tensors:
            for dim, axis in enumerate(tensor.axes, 1):
                if axis is not None and axis.group == group:
                    by = factor.repeat_interleave(axis.block, 1)
                    shape = [
                        len(by),
                        *(-1 if d == dim else 1 for d in range(1, out[tensor.name].ndim)),
                    ]
                    by = by.view(shape)
                    out[tensor.name] = out[tensor.name] * (by if dim == 1 else 1 / by)
    return out
