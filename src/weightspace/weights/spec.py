"""What an architecture's weights look like: names, shapes, roles and permutation groups.

A *spec* is the contract between a zoo, an autoencoder and a checkpoint. Weights are always a
``dict[str, Tensor]`` whose tensors carry one leading axis for the networks: ``(N, *shape)``.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from weightspace.errors import problem

Weights = dict[str, Tensor]

BLOCK = 100  # networks read or run at once; fixed, so that no result depends on how many there are
BLOCK_NUMBERS = 1 << 26  # of the networks that are worked on at once: 256 MiB
ALL_ORDERS, SOME_ORDERS = 120, 24  # of outputs: ten classes have 3,628,800
ON_GPU = 16  # times as many of what lies on a GPU, which is busy with that many


class Networks(Protocol):
    """Networks that need not be in memory: some of them at a time, whatever their number."""

    def __len__(self) -> int:
        """Number of networks N."""

    def take(self, index: Any) -> Weights:
        """Weights ``(n, *shape)`` of some networks, by a slice or an index tensor ``(n,)``."""


Population = Mapping[str, Tensor] | Networks  # in memory, or block by block

EPSILON = 1e-5  # what batch normalisation adds to a variance before it divides by its root


@dataclass(frozen=True)
class Axis:
    """Permutation group of one tensor axis.

    ``block`` consecutive entries move together, as when an image of ``block`` pixels per channel
    is flattened into the input of a linear layer.

    >>> Axis("channels", block=2).entries(torch.tensor([1, 0, 2]))
    tensor([2, 3, 0, 1, 4, 5])
    """

    group: str
    block: int = 1

    def entries(self, order: Tensor) -> Tensor:
        """Order of the entries ``(..., size * block)`` that units in order ``(..., size)`` give."""
        if self.block == 1:
            return order
        block = torch.arange(self.block, device=order.device)
        return (order[..., None] * self.block + block).flatten(-2)


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape, role and per-axis permutation group (None: the axis is fixed) of one tensor.

    A ``parameter`` is trained, a ``buffer`` is measured, a ``variance`` is a buffer without negative
    entries.

    >>> TensorSpec("layer.weight", (3, 4), "parameter", (Axis("units"), None)).numel
    12
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
        """Values of this tensor in the coordinates of :meth:`Spec.unconstrain`.

        >>> variance = TensorSpec("norm.running_var", (2,), "variance", (None,))
        >>> variance.unconstrain(torch.tensor([[100.0, 1000.0]]))
        tensor([[4.6052, 6.9078]])
        """
        return (values + EPSILON).log() if self.role == "variance" else values

    def permute(self, values: Tensor, permutations: Mapping[str, Tensor]) -> Tensor:
        """Values ``(N, *shape)`` of this tensor alone in the orders of :meth:`Spec.permute`.

        >>> bias = TensorSpec("layer.bias", (3,), "parameter", (Axis("units"),))
        >>> orders = {"units": torch.tensor([[2, 0, 1], [0, 1, 2]])}  # of each of two networks
        >>> bias.permute(torch.tensor([[10, 20, 30], [40, 50, 60]]), orders)
        tensor([[30, 10, 20],
                [40, 50, 60]])
        """
        for dim, axis in enumerate(self.axes, start=1):
            if axis is None or axis.group not in permutations:
                continue
            index = axis.entries(permutations[axis.group].to(values.device))
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

    Example: one hidden layer of three units, whose order does not matter.

    >>> units = Axis("units")
    >>> spec = Spec(
    ...     "example",
    ...     (
    ...         TensorSpec("layer.weight", (3, 4), "parameter", (units, None)),
    ...         TensorSpec("head.weight", (2, 3), "parameter", (None, units)),
    ...     ),
    ...     head=("head.weight",),
    ... )
    >>> spec.names, spec.numel, spec.groups
    (('layer.weight', 'head.weight'), 18, {'units': 3})
    >>> Spec.from_json(spec.to_json()) == spec
    True
    >>> weights = spec.unflatten(torch.arange(36).reshape(2, 18))  # of two networks
    >>> spec.check(weights)
    2
    >>> weights["head.weight"][0]
    tensor([[12, 13, 14],
            [15, 16, 17]])
    >>> torch.equal(spec.flatten(weights), torch.arange(36).reshape(2, 18))
    True

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

        Args:
            weights: tensors ``(N, *shape)``.
            where: what they are, for messages.

        Raises:
            WeightspaceError: a tensor is missing, unknown, or of another shape; named.

        >>> spec = Spec("example", (TensorSpec("a", (3,), "parameter", (None,)),))
        >>> spec.check({"a": torch.zeros(5, 3)})
        5
        >>> spec.check({"a": torch.zeros(5, 4)}, "net.pt")
        Traceback (most recent call last):
            ...
        weightspace.errors.WeightspaceError: net.pt: tensor 'a' has another shape; ...

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

        >>> spec = Spec("example", (TensorSpec("v", (2,), "variance", (None,)),))
        >>> spec.constrain({"v": torch.tensor([[-50.0, 2.0]])})  # any real vector is a network
        {'v': tensor([[0.0000, 7.3890]])}
        >>> spec.unconstrain({"v": torch.tensor([[0.0, 7.3890]])})
        {'v': tensor([[-11.5129,   2.0000]])}
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

        >>> units = Axis("units")
        >>> spec = Spec(
        ...     "example",
        ...     (
        ...         TensorSpec("layer.weight", (3, 1), "parameter", (units, None)),
        ...         TensorSpec("head.weight", (1, 3), "parameter", (None, units)),
        ...     ),
        ... )
        >>> weights = spec.unflatten(torch.tensor([[1.0, 2.0, 3.0, 10.0, 20.0, 30.0]]))
        >>> moved = spec.permute(weights, {"units": torch.tensor([2, 0, 1])})
        >>> spec.flatten(moved)
        tensor([[ 3.,  1.,  2., 30., 10., 20.]])
        >>> [w["head.weight"] @ w["layer.weight"] for w in (weights, moved)]  # the same outputs
        [tensor([[[140.]]]), tensor([[[140.]]])]

        """
        return dict(weights) | {
            t.name: t.permute(weights[t.name], permutations) for t in self.tensors
        }


def stack(networks: list[Weights]) -> Weights:
    """Stack single networks ``(*shape)`` to a batch ``(N, *shape)``.

    >>> stack([{"a": torch.tensor([1, 2])}, {"a": torch.tensor([3, 4])}])
    {'a': tensor([[1, 2],
            [3, 4]])}
    """
    return {name: torch.stack([net[name] for net in networks]) for name in networks[0]}


def take(weights: Population, index: Any) -> Weights:
    """Select networks along the leading axis: by a number, a slice or an index tensor.

    Of networks that are not in memory only these are read or made; not by a number.

    >>> weights = {"a": torch.tensor([[1, 2], [3, 4], [5, 6]])}
    >>> take(weights, 1), take(weights, slice(2, 3))
    ({'a': tensor([3, 4])}, {'a': tensor([[5, 6]])})
    """
    if isinstance(weights, Mapping):
        return {name: tensor[index] for name, tensor in weights.items()}
    return weights.take(index)


def count(weights: Population) -> int:
    """Number of networks.

    >>> count({"a": torch.zeros(5, 3)})
    5
    """
    return len(next(iter(weights.values()))) if isinstance(weights, Mapping) else len(weights)


def to_device(weights: Mapping[str, Tensor], device: torch.device) -> Weights:
    """The same networks on a device; nothing is copied where they are there.

    >>> weights = {"a": torch.zeros(5, 3)}
    >>> to_device(weights, torch.device("cpu"))["a"] is weights["a"]
    True
    """
    return {name: w.to(device) for name, w in weights.items()}


def block_size(spec: Spec, most: int, more: int = 0, where: str = "cpu") -> int:
    """Networks that are worked on at once: ``most``, fewer where they are large, at least one.

    It depends on no number of networks, so that no result does.

    Args:
        spec: the architecture.
        most: networks at most.
        more: numbers that are held for each network in addition to its weights.
        where: type of the device that holds them.

    >>> large = Spec("example", (TensorSpec("a", (1 << 24,), "parameter", (None,)),))
    >>> block_size(large, 100), block_size(large, 100, more=1 << 24)
    (4, 2)

    """
    return max(
        1, min(most, BLOCK_NUMBERS * (ON_GPU if where == "cuda" else 1) // (spec.numel + more))
    )


def reorder_outputs(spec: Spec, weights: Mapping[str, Tensor], order: Tensor) -> Weights:
    """Networks of the reordered task: row ``i`` of each head tensor is the old row ``order[i]``.

    Args:
        spec: the architecture; it names the tensors of the head.
        weights: tensors ``(N, *shape)``.
        order: of the outputs ``(c,)``, the same for all networks.

    >>> spec = Spec("example", (TensorSpec("bias", (3,), "parameter", (None,)),), head=("bias",))
    >>> reorder_outputs(spec, {"bias": torch.tensor([[10, 20, 30]])}, torch.tensor([2, 0, 1]))
    {'bias': tensor([[30, 10, 20]])}

    """
    return {k: w[:, order] if k in spec.head else w for k, w in weights.items()}


def output_orders(classes: int) -> Tensor:
    """Orders of the outputs ``(O, c)``, the identity first: all of them, or 24 where there are more than 120.

    >>> output_orders(3)[:2], len(output_orders(3)), len(output_orders(10))
    (tensor([[0, 1, 2],
            [0, 2, 1]]), 6, 24)
    """
    if math.factorial(classes) <= ALL_ORDERS:
        return torch.tensor(list(permutations(range(classes))))
    chosen, rng = {tuple(range(classes)): None}, random.Random(0)
    while len(chosen) < SOME_ORDERS:
        chosen[tuple(rng.sample(range(classes), classes))] = None
    return torch.tensor(list(chosen))


def block_slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most ``size`` rows that cover ``count`` rows, in order.

    >>> list(block_slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def blocks(weights: Population, size: int) -> Iterator[Weights]:
    """Cut a batch of networks into blocks of at most ``size``, in order.

    >>> [block["a"].tolist() for block in blocks({"a": torch.arange(5)}, 2)]
    [[0, 1], [2, 3], [4]]
    """
    return (take(weights, rows) for rows in block_slices(count(weights), size))


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
    fill_together([out], size, lambda rows: [compute(rows)])
    return out


def fill_together(
    rooms: Sequence[Tensor], size: int, compute: Callable[[slice], Sequence[Tensor]]
) -> None:
    """As :func:`fill_blocks`, for several results that one pass over the same rows gives.

    Args:
        rooms: room for each result ``(N, ...)``.
        size: rows of a block.
        compute: rows -> their results, one for each room.

    """
    for rows in block_slices(len(rooms[0]), size):
        for room, values in zip(rooms, compute(rows), strict=True):
            room[rows] = values
