"""Layers of N networks at once, with their gradients written out.

Activations of many networks are ``(N, C, M)``: channels, then all pixels of all images, M = H W B
with the images last. A convolution is then a batched matrix product whose result needs no
reordering, copies for it move runs of at least B numbers, and PyTorch's weight layout is used as it
is. Images that all networks share have no N, and the first layer is one wide product.

A :class:`Chain` of layers is one node for autograd, and training goes without: with many small
products its bookkeeping and the copies it makes cost a third of a step. benchmarks/zoo_training.py
measures all this against grouped convolution, which is what vmap makes of a convolution.

This file, ``_layers.py``, ``_patches.py`` and every ``batched`` may be deleted when PyTorch's vmap of
the plain module is as fast: its ``outputs_speedup`` in that benchmark near 1, and training through
``torch.func.grad`` as fast as ``at_once``. For that, vmap would have to run a convolution with other
weights for each network as a batched matrix product, forward and backward, and a training step of
many small layers would have to cost no more than their products. Nothing else depends on these
files: a module without ``batched`` runs by vmap, and a test holds both to the same outputs and
gradients in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Saved = tuple[Any, ...]  # what a layer needs for its gradient
# By the input, None where it is not needed, and by each weight
Gradients = tuple[Tensor | None, dict[str, Tensor]]


class Layer(Protocol):
    """A layer of N networks, which knows its weights by name.

    ``forward`` may overwrite its input ``x``, and says so; such a layer is never the first of a chain
    and never follows one that saves its result. ``backward`` overwrites nothing.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its weights, which no other layer of the chain has."""

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """Result, and what :meth:`backward` needs.

        Args:
            x: input ``(N, C, M)``.
            weights: name -> ``(N, ...)``.

        """

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """Gradient of the loss by the input and by each weight.

        Args:
            grad: gradient by the result, of its shape.
            saved: what :meth:`forward` returned for it.
            needs_input_grad: whether the gradient by the input is needed.

        """


@dataclass(frozen=True)
class Residual:
    """Sum of two chains of layers with one input, ``y = f(x) + g(x)``.

    The result of ``body`` becomes the sum, so its last layer does not save it. Overwrites nothing.

    Args:
        body: layers of f.
        shortcut: layers of g; none for the input as it is.

    >>> from weightspace.nets._layers import Linear
    >>> chain = Chain(torch.tensor([[2.0]]), [Linear("a"), Residual([Linear("b")])], {
    ...     "a": torch.tensor([[[3.0]]]), "b": torch.tensor([[[10.0]]])})
    >>> chain.outputs()  # 10 * 6 + 6
    tensor([[[66.]]])
    >>> chain.gradient(torch.ones_like)
    {'b': tensor([[[6.]]]), 'a': tensor([[[22.]]])}

    """

    body: Sequence[Layer]
    shortcut: Sequence[Layer] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Those of both."""
        return tuple(name for layer in (*self.body, *self.shortcut) for name in layer.names)

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """As the result of ``body``."""
        out, saved = _forward(self.body, x, weights)
        shortcut, saved_shortcut = _forward(self.shortcut, x, weights)
        return out.add_(shortcut), (saved, saved_shortcut)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: the sum of the gradients through both."""
        by_x, gradients = _backward(self.body, saved[0], grad, needs_input_grad=needs_input_grad)
        by_shortcut, others = _backward(
            self.shortcut, saved[1], grad, needs_input_grad=needs_input_grad
        )
        if by_x is not None and by_shortcut is not None:
            by_x = by_x + by_shortcut
        return by_x, gradients | others


@dataclass(frozen=True)
class Chain:
    """Layers one after the other, with the weights of N networks.

    Activations have the type of ``x``, say bf16; results, gradients and statistics that of the weights.

    Attributes:
        x: input of the first, ``(N, C, M)``, or ``(C, M)`` for all networks.
        layers: the last is a linear layer, which does not save its result.
        weights: name -> ``(N, ...)``.

    >>> from weightspace.nets._layers import Linear, Relu
    >>> layers = [Linear("a"), Relu(), Linear("b")]
    >>> weights = {"a": torch.tensor([[[1.0], [-1.0]]]), "b": torch.tensor([[[3.0, 5.0]]])}
    >>> chain = Chain(torch.tensor([[2.0, -2.0]]), layers, weights)  # one network, two images
    >>> chain.outputs()
    tensor([[[ 6., 10.]]])
    >>> chain.gradient(torch.ones_like)
    {'b': tensor([[[2., 2.]]]), 'a': tensor([[[  6.],
             [-10.]]])}

    """

    x: Tensor
    layers: Sequence[Layer]
    weights: Mapping[str, Tensor]

    def outputs(self) -> Tensor:
        """Result of the last layer, ``(N, C, M)``."""
        names = [name for layer in self.layers for name in layer.names]
        arguments = [self.weights[name] for name in names]
        return self._result(_Chain.apply(self.layers, names, self.x, *arguments))

    @torch.no_grad()
    def gradient(self, grad_of_loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Gradient by each weight, without autograd.

        Args:
            grad_of_loss: result of the last layer -> gradient of the loss by it, both ``(N, C, M)``.

        """
        out, saved = _forward(self.layers, self.x, self.weights)
        grad = grad_of_loss(self._result(out)).to(out.dtype)
        _, gradients = _backward(self.layers, saved, grad, needs_input_grad=False)
        return {name: g.to(self.weights[name].dtype) for name, g in gradients.items()}

    def _result(self, out: Tensor) -> Tensor:
        """In the type of the weights."""
        return out.to(next(iter(self.weights.values())).dtype)


class _Chain(torch.autograd.Function):
    """The layers as one node of autograd."""

    @staticmethod
    def forward(
        ctx: Any, layers: Sequence[Layer], names: Sequence[str], x: Tensor, *arguments: Tensor
    ) -> Tensor:
        weights = dict(zip(names, arguments, strict=True))
        out, saved = _forward(layers, x, weights, save=any(ctx.needs_input_grad))
        ctx.shape, ctx.layers, ctx.names, ctx.saved = x.shape, layers, names, saved
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if len(ctx.saved) < len(ctx.layers):
            raise RuntimeError("a chain of layers runs backward once: it frees what it saved")
        by_x, gradients = _backward(
            ctx.layers, ctx.saved, grad, needs_input_grad=ctx.needs_input_grad[2]
        )
        by_x = None if by_x is None else by_x.view(ctx.shape)
        return None, None, by_x, *(gradients[name] for name in ctx.names)


def _forward(
    layers: Sequence[Layer], x: Tensor, weights: Mapping[str, Tensor], *, save: bool = True
) -> tuple[Tensor, list[Saved]]:
    """Result of all layers, and what each of them saved.

    Args:
        layers: one after the other.
        x: input of the first, ``(N, C, M)`` or ``(C, M)``.
        weights: name -> ``(N, ...)``.
        save: whether a gradient will be needed.

    """
    all_saved = []
    for layer in layers:
        x, saved = layer.forward(x, weights)
        if save:
            all_saved.append(saved)
    return x, all_saved


def _backward(
    layers: Sequence[Layer], saved: list[Saved], grad: Tensor, *, needs_input_grad: bool
) -> Gradients:
    """Gradient by the input of the first layer, if needed, and by each weight.

    Args:
        layers: as those of :func:`_forward`.
        saved: of each layer; freed on the way, so that it is empty at the end.
        grad: gradient by the result of the last layer, ``(N, C, M)``.
        needs_input_grad: whether the gradient by the input of the first layer is needed.

    """
    gradients: dict[str, Tensor] = {}
    by_x: Tensor | None = grad
    for i in reversed(range(len(layers))):
        assert by_x is not None
        by_x, of_layer = layers[i].backward(
            by_x, saved.pop(), needs_input_grad=needs_input_grad or i > 0
        )
        gradients |= of_layer
    return by_x, gradients
