"""What an architecture's weights look like: names, shapes, roles and permutation groups.

A *spec* is the contract between a zoo, an autoencoder and a checkpoint. Weights are always a
``dict[str, Tensor]`` whose tensors carry one leading axis for the networks: ``(N, *shape)``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import permutations
from typing import Any, Literal

import torch
from torch import Tensor

from weightspace.errors import problem

Weights = dict[str, Tensor]

EPSILON = 1e-5  # what batch normalisation adds to a variance before it divides by its root


@dataclass(frozen=True)
class Axis:
    """Permutation group of one tensor axis.

    ``block`` consecutive entries move together, as when an image of ``block`` pixels per channel
    is flattened into the input of a linear layer.
    """

    group: str
    block: int = 1

    def entries(self, order: Tensor) -> Tensor:
        """Order of the entries ``(..., size * block)`` that units in order ``(..., size)`` give."""
        if self.block == 1:
            return order
        return (order[..., None] * self.block + torch.arange(self.block)).flatten(-2)


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape, role and per-axis permutation group (None: the axis is fixed) of one tensor.

    A ``parameter`` is trained, a ``buffer`` is measured, a ``variance`` is a buffer without negative
    entries.
    """

    name: str
    shape: tuple[int, ...]
    role: Literal["parameter", "buffer", "variance"]
    axes: tuple[Axis | None, ...] = field(default=())

    @property
    def numel(self) -> int:
        """Number of entries."""
        return int(torch.Size(self.shape).numel())

    def unconstrain(self, values: Tensor) -> Tensor:
        """Values of this tensor in the coordinates of :meth:`Spec.unconstrain`."""
        return (values + EPSILON).log() if self.role == "variance" else values

    def permute(self, values: Tensor, permutations: Mapping[str, Tensor]) -> Tensor:
        """Values ``(N, *shape)`` of this tensor alone in the orders of :meth:`Spec.permute`."""
        for dim, axis in enumerate(self.axes, start=1):
            if axis is None or axis.group not in permutations:
                continue
            index = axis.entries(permutations[axis.group])
            if index.ndim == 1:
                values = values.index_select(dim, index)
            else:
                rows = torch.arange(len(values))[:, None]
                values = values.movedim(dim, 1)[rows, index].movedim(1, dim)
        return values


@dataclass(frozen=True)
class Spec:
    """Specification of an architecture: its tensors in order, and which of them form the head.

    Args:
        architecture: registered name of the architecture.
        tensors: one entry per parameter and buffer, in ``state_dict`` order.
        head: names of the tensors of the output layer.

    """

    architecture: str
    tensors: tuple[TensorSpec, ...]
    head: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in order."""
        return tuple(t.name for t in self.tensors)

    @property
    def numel(self) -> int:
        """Entries of one network, buffers included."""
        return sum(t.numel for t in self.tensors)

    @property
    def parameters(self) -> Spec:
        """The trained tensors alone."""
        trained = tuple(t for t in self.tensors if t.role == "parameter")
        return Spec(self.architecture, trained, self.head)

    @property
    def groups(self) -> dict[str, int]:
        """Size of every permutation group."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            for size, axis in zip(tensor.shape, tensor.axes, strict=True):
                if axis is not None:
                    sizes[axis.group] = size // axis.block
        return sizes

    @property
    def fingerprint(self) -> str:
        """Short hash of the whole specification."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; inverse of :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        """Rebuild a spec from :meth:`to_json`."""
        tensors = tuple(
            TensorSpec(
                name=t["name"],
                shape=tuple(t["shape"]),
                role=t["role"],
                axes=tuple(None if a is None else Axis(a["group"], a["block"]) for a in t["axes"]),
            )
            for t in data["tensors"]
        )
        return cls(data["architecture"], tensors, tuple(data["head"]))

    def check(self, weights: Mapping[str, Tensor], where: object = "weights") -> int:
        """Verify that a batch of weights fits exactly, and return the number of networks N.

        Raises:
            WeightspaceError: a tensor is missing, unknown, or of another shape; named.

        """
        missing = [n for n in self.names if n not in weights]
        extra = [n for n in weights if n not in self.names]
        if missing or extra:
            raise problem(
                f"tensors do not match architecture '{self.architecture}'",
                where=where,
                got=f"missing {missing}, unknown {extra}",
                expected=list(self.names),
            )
        n = len(weights[self.names[0]])
        for t in self.tensors:
            if tuple(weights[t.name].shape) != (n, *t.shape):
                raise problem(
                    f"tensor '{t.name}' has another shape",
                    where=where,
                    got=tuple(weights[t.name].shape),
                    expected=(n, *t.shape),
                )
        return n

    def flatten(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Concatenate all tensors of N networks to one matrix ``(N, numel)``."""
        return torch.cat([weights[name].flatten(1) for name in self.names], 1)

    def unflatten(self, flat: Tensor) -> Weights:
        """Inverse of :meth:`flatten`: ``(N, numel)`` to tensors ``(N, *shape)``."""
        parts = flat.split([t.numel for t in self.tensors], 1)
        return {t.name: p.reshape(-1, *t.shape) for t, p in zip(self.tensors, parts, strict=True)}

    def unconstrain(self, weights: Mapping[str, Tensor]) -> Weights:
        """Coordinates in which every real vector is a network: variances become ``log(v + eps)``.

        Whatever moves networks linearly, PCA or noise, works in these coordinates, so that no
        variance becomes negative. Parameters and other buffers stay as they are.
        """
        return {t.name: t.unconstrain(weights[t.name]) for t in self.tensors}

    def constrain(self, free: Mapping[str, Tensor]) -> Weights:
        """Inverse of :meth:`unconstrain`; variances are never negative."""
        back = {v: (free[v].exp() - EPSILON).clamp_min(0) for v in self._variances}
        return dict(free) | back

    @property
    def _variances(self) -> list[str]:
        return [t.name for t in self.tensors if t.role == "variance"]

    def permute(self, weights: Mapping[str, Tensor], permutations: Mapping[str, Tensor]) -> Weights:
        """Reorder hidden units: the outputs of each network stay the same.

        Source: Ainsworth, Hayase, Srinivasa (2022), Git Re-Basin, arXiv 2209.04836, section 2.

        Args:
            weights: tensors ``(N, *shape)``.
            permutations: group -> index tensor, ``(size,)`` for all N networks or ``(N, size)``, an
                order for each; groups that are not named stay as they are.

        """
        return dict(weights) | {
            t.name: t.permute(weights[t.name], permutations) for t in self.tensors
        }


def stack(networks: list[Weights]) -> Weights:
    """Stack single networks ``(*shape)`` to a batch ``(N, *shape)``."""
    return {name: torch.stack([net[name] for net in networks]) for name in networks[0]}


def take(weights: Mapping[str, Tensor], index: Any) -> Weights:
    """Select networks along the leading axis."""
    return {name: tensor[index] for name, tensor in weights.items()}


def reorder_outputs(spec: Spec, weights: Mapping[str, Tensor], order: Tensor) -> Weights:
    """Networks of the reordered task: row ``i`` of each head tensor is the old row ``order[i]``."""
    return {k: w[:, order] if k in spec.head else w for k, w in weights.items()}


def output_orders(classes: int) -> Tensor:
    """All orders of the outputs ``(O, c)``, the identity first."""
    return torch.tensor(list(permutations(range(classes))))


def block_slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows that cover ``count`` rows, in order.

    >>> list(block_slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def blocks(weights: Mapping[str, Tensor], size: int) -> Iterator[Weights]:
    """Cut a batch of networks into blocks of at most ``size``, in order."""
    count = len(next(iter(weights.values())))
    return (take(weights, rows) for rows in block_slices(count, size))


def fill_blocks(out: Tensor, size: int, compute: Callable[[slice], Tensor]) -> Tensor:
    """Fill ``out`` block by block along its first axis, and return it.

    It is allocated before the work: small results that are made between large temporary ones, and
    stay, keep the allocator from reusing these (sampling took 5.5 GiB that way, and now 1.2).

    Args:
        out: room for the results ``(N, ...)``.
        size: rows of a block; fixed by the caller, so that no result depends on N.
        compute: rows -> their results ``(rows, ...)``.

    >>> fill_blocks(torch.empty(5), 2, lambda rows: torch.arange(5.0)[rows] ** 2)
    tensor([ 0.,  1.,  4.,  9., 16.])

    """
    for rows in block_slices(len(out), size):
        out[rows] = compute(rows)
    return out
