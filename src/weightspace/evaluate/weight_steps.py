"""The gradient steps of a guided draw, elsewhere: what do the latent space and the draw add to them?

As many steps of the same optimiser on the same loss and on as many labelled train images, but on all
weights of a network, on a few coordinates of a subspace through a network, or on a latent that was
drawn without D or without R.

Source of the subspaces: Li et al. (2018), Measuring the Intrinsic Dimension of Objective Landscapes,
arXiv 1804.08838, section 2. Here each weight moves with one coordinate, its sign drawn at random, so
that directions are orthogonal and need no memory beyond that of one network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from weightspace.autoencoders.base import Autoencoder
from weightspace.evaluate.evaluation import Evaluation
from weightspace.evaluate.tuning import Outcome
from weightspace.nets.base import Net
from weightspace.rng import torch_stream
from weightspace.sampling.requests import Grid
from weightspace.weights.pca import TensorPca
from weightspace.weights.spec import Weights
from weightspace.zoo.outputs import choose_probes

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)  # to choose from, on weights and in a random subspace
PCA_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # along components, in standard deviations
LATENT_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of latents
STATISTICS = 32  # images that statistics of batch normalisation are measured on


class Coordinates(Autoencoder):
    """Decodes numbers that are the weights themselves, or that move one network.

    Statistics of batch normalisation are measured, as those of decoded networks.

    Args:
        net: the architecture.
        references: images that statistics are measured on ``(R, C, H, W)``.
        weights_of: coordinates ``(N, L)`` -> weights ``(N, *shape)``; by default all entries are given,
            free of constraints (``Spec.unconstrain``).

    """

    name = "coordinates"
    references: Tensor

    def __init__(
        self,
        net: Net,
        references: Tensor,
        weights_of: Callable[[Tensor], Weights] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.spec = net, net.spec
        self.weights_of = weights_of or (lambda z: net.spec.constrain(net.spec.unflatten(z)))
        self.register_buffer("references", references)

    def _encode(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.spec.flatten(self.spec.unconstrain(weights))

    def decode(self, z: Tensor) -> Weights:
        """Weights ``(N, *shape)`` of coordinates ``(N, L)``."""
        weights = self.weights_of(z)
        return (
            self.net.with_statistics(weights, self.references) if self.images_besides else weights
        )

    def unmeasured(self, z: Tensor) -> Weights:
        """As :meth:`decode`, without statistics."""
        return self.weights_of(z)

    def outputs_of(self, net: Net, weights: Weights, images: Tensor) -> Tensor:
        """Outputs ``(N, B, classes)``, with a gradient by statistics, too.

        Args:
            net: the architecture.
            weights: tensors ``(N, *shape)``.
            images: as those of :meth:`Net.outputs`.

        """
        if not self.images_besides:
            return net.outputs(weights, images)
        return net.outputs_by_references(weights, images, self.references)

    @property
    def images_besides(self) -> int:
        """Those that statistics are measured on."""
        return 0 if self.spec.parameters == self.spec else len(self.references)


def random_subspace(
    net: Net, reference: Tensor, size: int, rng: torch.Generator
) -> Callable[[Tensor], Weights]:
    """Weights of coordinates ``(N, size)`` that move one network in random orthogonal directions.

    Args:
        net: the architecture.
        reference: all entries of the network, free of constraints ``(numel,)``.
        size: coordinates.
        rng: draws the coordinate and the sign of each entry.

    """
    entries = len(reference)
    index = torch.randint(size, (entries,), generator=rng).to(reference.device)
    sign = (2.0 * torch.randint(2, (entries,), generator=rng) - 1).to(reference)
    return lambda z: net.spec.constrain(net.spec.unflatten(reference + sign * z[:, index]))


def pca_subspace(pca: TensorPca, reference: Tensor, size: int) -> Callable[[Tensor], Weights]:
    """Weights of coordinates ``(N, size)`` that move one network along the first components.

    Args:
        pca: components and their variances, of which the largest count.
        reference: all entries of the network, free of constraints ``(numel,)``.
        size: coordinates, each in standard deviations; fewer where there are fewer components.

    """
    variances = pca.variances()
    first = variances.topk(min(size, len(variances))).indices
    scale = variances[first].sqrt()

    def weights_of(z: Tensor) -> Weights:
        moved = z.new_zeros(len(z), len(variances))
        return pca.moved(reference, moved.index_copy(1, first, scale * z[:, : len(first)]))

    return weights_of


Rates = tuple[float, ...]
Start = Callable[[Grid], Tensor]  # coordinates (K, L) of the requests of one task


@dataclass(frozen=True)
class WeightSteps:
    """Takes the steps of a guided draw from other coordinates.

    Attributes:
        evaluation: what draws, and its settings.
        decoder: turns coordinates into weights.
        start: where requests start.

    """

    evaluation: Evaluation
    decoder: Autoencoder
    start: Start

    def __call__(self, grid: Grid, rate: float, part: str) -> Outcome:
        """Results on a part of the images, and the labelled images of all steps of a network.

        Args:
            grid: the requests.
            rate: first step of Adam.
            part: images that the networks are measured on, "val" or "test".

        """
        runner, params = self.evaluation.runner, self.evaluation.params
        settings = params.guidance.model_copy(update={"rate": rate})
        sampler = replace(self.evaluation.sampler, autoencoder=self.decoder, guidance=settings)
        achieved = []
        for task in grid.tasks:  # one after the other: their weights need not fit in memory
            requests = replace(grid, tasks=task[None])
            condition = requests.condition(runner.dataset)
            rng = torch_stream(params.seed, "baselines", "steps", int(task))
            z = sampler.guided(self.start(requests)[:, None], condition, rng)
            outputs = runner.outputs_by_task(sampler.networks(z), requests.tasks, part)
            achieved.append(requests.achieved(outputs, self.evaluation.result)[:, 0])
        return Outcome(np.concatenate(achieved), sampler.image_gradients(condition))


def all_weights(evaluation: Evaluation) -> Coordinates:
    """All entries of a network as coordinates."""
    return Coordinates(evaluation.sampler.net, _references(evaluation))


def from_reference(
    evaluation: Evaluation,
) -> dict[str, tuple[Coordinates, Start, Rates]]:
    """Coordinates around the network that the decoder starts from, where they start, and rates to try.

    All weights, and as many coordinates as a latent has: of a random subspace, and of that of the first
    components. Nothing where the autoencoder has no such network.
    """
    autoencoder, net = evaluation.sampler.autoencoder, evaluation.sampler.net
    if autoencoder.origin is None:
        return {}
    (reference, pca), size = autoencoder.origin, autoencoder.latent
    rng = torch_stream(evaluation.params.seed, "baselines", "subspace")

    def centre(grid: Grid) -> Tensor:
        return reference.new_zeros(len(grid), size)

    subspaces: dict[str, tuple[Callable[[Tensor], Weights], Rates]] = {
        "random_subspace": (random_subspace(net, reference, size, rng), RATES),
        "pca_subspace": (pca_subspace(pca, reference, size), PCA_RATES),
    }
    references = _references(evaluation)
    whole: tuple[Coordinates, Start, Rates]
    whole = all_weights(evaluation), lambda grid: reference.expand(len(grid), -1), RATES
    return {"reference": whole} | {
        name: (Coordinates(net, references, weights_of), centre, rates)
        for name, (weights_of, rates) in subspaces.items()
    }


def from_latents(evaluation: Evaluation) -> dict[str, tuple[Autoencoder, Start, Rates]]:
    """As :func:`from_reference`, for latents that were drawn: as they are, without R, without D."""
    sampler, seed = evaluation.sampler, evaluation.params.seed

    def start(grid: Grid, name: str) -> Tensor:
        rng = torch_stream(seed, "baselines", name, *grid.tasks.tolist())
        condition = grid.condition(evaluation.runner.dataset)
        use = {"use_dataset": name != "r_only", "use_result": name != "d_only"}
        return sampler.latents(condition, 1, rng, **use)[:, 0]

    return {
        name: (sampler.autoencoder, partial(start, name=name), LATENT_RATES)
        for name in ("draw", "d_only", "r_only")
    }


def _references(evaluation: Evaluation) -> Tensor:
    """Train images of any class that statistics are measured on ``(R, C, H, W)``."""
    return choose_probes(evaluation.runner.dataset, STATISTICS, evaluation.params.seed)
