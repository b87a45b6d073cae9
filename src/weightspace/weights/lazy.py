"""Networks that are made where they are used, block by block: chosen, changed, or drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.weights.spec import Population, Spec, Weights, block_size, blocks, count, take

BLOCK = 100  # networks read at once for a statistic over all of them


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


def standard_deviations(spec: Spec, networks: Population) -> dict[str, float]:
    """Standard deviation over all entries of all networks, of each tensor, as in ``Tensor.std``.

    In the coordinates of :meth:`weightspace.weights.spec.Spec.unconstrain`, in one pass.

    >>> from weightspace.weights.spec import TensorSpec
    >>> spec = Spec("example", (TensorSpec("a", (2,), "parameter", (None,)),))
    >>> standard_deviations(spec, {"a": torch.tensor([[1.0, 2.0], [2.0, 3.0]])})["a"] ** 2
    0.6666666666666666
    """
    sums = torch.zeros(len(spec.tensors), 2, dtype=torch.float64)  # of entries and of their squares
    for block in blocks(networks, block_size(spec, BLOCK)):
        sums += torch.stack([_sums(w) for w in spec.unconstrain(block).values()])
    n = count(networks) * torch.tensor([t.numel for t in spec.tensors])
    variance = (sums[:, 1] - sums[:, 0] ** 2 / n) / (n - 1)
    return dict(zip(spec.names, variance.clamp_min(0).sqrt().tolist(), strict=True))


def _sums(x: Tensor) -> Tensor:
    """Sum of the entries and of their squares ``(2,)``, in float64."""
    x = x.double()
    return torch.stack([x.sum(), x.square().sum()]).cpu()
