"""Networks that are made where they are used, block by block: chosen, changed, or drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.weights.spec import (
    BLOCK,
    Population,
    Spec,
    Weights,
    block_size,
    blocks,
    count,
    take,
)


@dataclass(frozen=True)
class Selected:
    """Some of other networks, in any order: :class:`weightspace.weights.spec.Networks`.

    Attributes:
        networks: those to choose from.
        rows: chosen ones ``(n,)``; one may be chosen several times.

    >>> chosen = Selected({"a": torch.tensor([1, 2, 3])}, torch.tensor([2, 0, 2]))
    >>> len(chosen), chosen.take(slice(1, 3))
    (3, {'a': tensor([1, 3])})

    """

    networks: Population
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: slice | Tensor) -> Weights:
        """Weights ``(m, *shape)`` of some of the chosen networks."""
        return take(self.networks, self.rows[index])


@dataclass(frozen=True)
class Made:
    """Networks that a function makes: :class:`weightspace.weights.spec.Networks`.

    Attributes:
        size: number of networks N.
        make: rows ``(n,)`` -> weights ``(n, *shape)``, those of a row always the same.

    >>> Made(3, lambda rows: {"a": 10 * rows}).take(slice(1, None))
    {'a': tensor([10, 20])}

    """

    size: int
    make: Callable[[Tensor], Weights]

    def __len__(self) -> int:
        return self.size

    def take(self, index: slice | Tensor) -> Weights:
        """Weights ``(n, *shape)`` of some rows."""
        return self.make(torch.arange(self.size)[index])


def draw_seeds(size: int, rng: torch.Generator) -> Tensor:
    """A seed for each of N networks ``(N,)``: what is drawn for one does not depend on its block."""
    return torch.randint(2**62, (size,), generator=rng)


def seeded(seeds: Tensor) -> list[torch.Generator]:
    """A random stream for each seed ``(n,)``."""
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]


def mean_network(spec: Spec, networks: Population) -> Weights:
    """Average ``(1, *shape)`` of N networks, each tensor by itself, summed in float64.

    >>> from weightspace.weights.spec import TensorSpec
    >>> spec = Spec("example", (TensorSpec("a", (2,), "parameter", (None,)),))
    >>> mean_network(spec, {"a": torch.tensor([[1.0, 2.0], [3.0, 6.0]])})
    {'a': tensor([[2., 4.]])}
    """
    total = {t.name: torch.zeros(t.shape, dtype=torch.float64) for t in spec.tensors}
    for block in blocks(networks, block_size(spec, BLOCK)):
        for name, w in block.items():
            total[name] += w.sum(0, dtype=torch.float64).cpu()
    return {name: (w / count(networks)).float()[None] for name, w in total.items()}


class Moments:
    """Variance and mean ``(d,)`` of the columns of matrices ``(n, d)`` that come block by block.

    In float64. Blocks are merged by Chan, Golub, LeVeque (1979), Updating formulae and a pairwise
    algorithm for computing sample variances, equation 2.1.

    >>> moments = Moments()
    >>> moments.add(torch.tensor([[1.0], [3.0]]))
    >>> moments.add(torch.tensor([[5.0], [7.0]]))
    >>> moments.variance, moments.mean
    (tensor([5.], dtype=torch.float64), tensor([4.], dtype=torch.float64))

    """

    def __init__(self) -> None:
        self.count = 0
        self.variance = self.mean = torch.zeros((), dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Count the rows of a matrix ``(n, d)``, too."""
        variance, mean = torch.var_mean(x.double().cpu(), 0, correction=0)
        self.count += len(x)
        fraction = len(x) / self.count
        shift = mean - self.mean
        self.mean = self.mean + fraction * shift
        between = fraction * (1 - fraction) * shift.square()
        self.variance = (1 - fraction) * self.variance + fraction * variance + between


def standard_deviations(spec: Spec, networks: Population) -> dict[str, float]:
    """Standard deviation over all entries of all networks, of each tensor, as in ``Tensor.std``.

    In the coordinates of :meth:`weightspace.weights.spec.Spec.unconstrain`, in one pass.

    >>> from weightspace.weights.spec import TensorSpec
    >>> spec = Spec("example", (TensorSpec("a", (2,), "parameter", (None,)),))
    >>> standard_deviations(spec, {"a": torch.tensor([[1.0, 2.0], [2.0, 3.0]])})["a"] ** 2
    0.6666666666666666
    """
    of_tensor = {name: Moments() for name in spec.names}
    for block in blocks(networks, block_size(spec, BLOCK)):
        for name, w in spec.unconstrain(block).items():
            of_tensor[name].add(w.reshape(-1, 1))
    return {k: math.sqrt(m.variance * m.count / (m.count - 1)) for k, m in of_tensor.items()}
