"""Layers of N networks at once, with their gradients written out.

Activations of many networks are ``(N, C, M)``: channels, then all pixels of all images, M = H W B
with the images last. A convolution is then a batched matrix product whose result needs no
reordering, copies for it move runs of at least B numbers, and PyTorch's weight layout is used as it
is. Images that all networks share have no N, and the first layer is one wide product.

A :class:`Chain` of layers is one node for autograd, and training goes without: with many small
products its bookkeeping and the copies it makes cost a third of a step. benchmarks/zoo_training.py
measures all this against grouped convolution, which is what vmap makes of a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Kept = tuple[Any, ...]  # what a layer needs for its gradient
Gradients = tuple[Tensor | None, ...]  # of the weights, in their order


class Layer(Protocol):
    """A layer of N networks. It may overwrite its input, unless it is the first of a chain."""

    def forward(self, x: Tensor, *weights: Any) -> tuple[Tensor, Kept]:
        """Result, and what :meth:`backward` needs."""

    def backward(
        self, grad: Tensor, kept: Kept, *, wanted: bool
    ) -> tuple[Tensor | None, Gradients]:
        """Gradient of the input, None if it is not wanted, and of the weights."""


@dataclass(frozen=True)
class Chain:
    """Layers one after the other, with the weights of N networks.

    Attributes:
        x: input of the first, ``(N, C, M)``, or ``(C, M)`` for all networks.
        steps: each a layer and the names of its weights, None for one that it does without; the last
            is a :class:`Linear`, which does not keep its result.
        weights: name -> ``(N, ...)``.

    """

    x: Tensor
    steps: Sequence[tuple[Any, ...]]
    weights: Mapping[str, Tensor]

    def outputs(self) -> Tensor:
        """Result of the last layer, ``(N, C, M)``."""
        out: Tensor = _Chain.apply(self._layers, self.x, *self._arguments)
        return out

    @torch.no_grad()
    def gradient(self, slope: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Gradient by each weight, without autograd.

        Args:
            slope: result of the last layer -> gradient by it, both ``(N, C, M)``.

        """
        out, kept = _forward(self._layers, self.x, self._arguments)
        _, gradients = _backward(self._layers, kept, slope(out), wanted=False)
        named = zip(self._names, gradients, strict=True)
        return {name: g for name, g in named if name is not None and g is not None}

    @property
    def _layers(self) -> tuple[tuple[Layer, int], ...]:
        return tuple((step[0], len(step) - 1) for step in self.steps)

    @property
    def _names(self) -> list[str | None]:
        return [name for step in self.steps for name in step[1:]]

    @property
    def _arguments(self) -> list[Tensor | None]:
        return [None if name is None else self.weights[name] for name in self._names]


class _Chain(torch.autograd.Function):
    """The layers as one node of autograd."""

    @staticmethod
    def forward(ctx: Any, layers: Any, x: Tensor, *weights: Any) -> Tensor:
        out, kept = _forward(layers, x, weights, keep=any(ctx.needs_input_grad))
        ctx.shape, ctx.layers, ctx.kept = x.shape, layers, kept
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if len(ctx.kept) < len(ctx.layers):
            raise RuntimeError("a chain of layers runs backward once: it frees what it kept")
        by_x, gradients = _backward(ctx.layers, ctx.kept, grad, wanted=ctx.needs_input_grad[1])
        return None, None if by_x is None else by_x.view(ctx.shape), *gradients


def _forward(
    layers: Sequence[tuple[Layer, int]], x: Tensor, weights: Sequence[Any], *, keep: bool = True
) -> tuple[Tensor, list[Kept]]:
    """Result of layers, each with its number of weights, and what all of them keep."""
    start, kept = 0, []
    for layer, count in layers:
        x, own = layer.forward(x, *weights[start : start + count])
        start += count
        if keep:
            kept.append(own)
    return x, kept


def _backward(
    layers: Sequence[tuple[Layer, int]], kept: list[Kept], grad: Tensor, *, wanted: bool
) -> tuple[Tensor | None, Gradients]:
    """Gradient by the input, if wanted, and by the weights; ``kept`` is freed on the way."""
    gradients: Gradients = ()
    by_x: Tensor | None = grad
    for i in reversed(range(len(layers))):
        assert by_x is not None
        by_x, own = layers[i][0].backward(by_x, kept.pop(), wanted=wanted or i > 0)
        gradients = own + gradients
    return by_x, gradients
