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
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Saved = tuple[Any, ...]  # what a layer needs for its gradient
# By input, weight and bias; None for what there is not, and for the input where it is not needed
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Layer(Protocol):
    """A layer of N networks.

    ``forward`` may overwrite its input ``x``, and says so; such a layer is never the first of a chain
    and never follows one that saves its result. ``backward`` overwrites nothing.
    """

    def forward(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, Saved]:
        """Result, and what :meth:`backward` needs.

        Args:
            x: input ``(N, C, M)``.
            weight: ``(N, ...)``; None for a layer without.
            bias: ``(N, ...)``; None for a layer without.

        """

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """Gradient of the loss by input, weight and bias.

        Args:
            grad: gradient by the result, of its shape.
            saved: what :meth:`forward` returned for it.
            needs_input_grad: whether the gradient by the input is needed.

        """


class Step(NamedTuple):
    """A layer of a chain, and the names of its weight and its bias; None for what it does without."""

    layer: Layer
    weight_name: str | None = None
    bias_name: str | None = None


@dataclass(frozen=True)
class Chain:
    """Layers one after the other, with the weights of N networks.

    Attributes:
        x: input of the first, ``(N, C, M)``, or ``(C, M)`` for all networks.
        steps: the layers; the last is a :class:`Linear`, which does not save its result.
        weights: name -> ``(N, ...)``.

    >>> from weightspace.nets._layers import Linear, Relu
    >>> steps = [Step(Linear(), "a"), Step(Relu()), Step(Linear(), "b")]
    >>> weights = {"a": torch.tensor([[[1.0], [-1.0]]]), "b": torch.tensor([[[3.0, 5.0]]])}
    >>> chain = Chain(torch.tensor([[2.0, -2.0]]), steps, weights)  # one network, two images
    >>> chain.outputs()
    tensor([[[ 6., 10.]]])
    >>> chain.gradient(torch.ones_like)
    {'a': tensor([[[  6.],
             [-10.]]]), 'b': tensor([[[2., 2.]]])}

    """

    x: Tensor
    steps: Sequence[Step]
    weights: Mapping[str, Tensor]

    def outputs(self) -> Tensor:
        """Result of the last layer, ``(N, C, M)``."""
        out: Tensor = _Chain.apply([step.layer for step in self.steps], self.x, *self._arguments())
        return out

    @torch.no_grad()
    def gradient(self, grad_of_loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Gradient by each weight, without autograd.

        Args:
            grad_of_loss: result of the last layer -> gradient of the loss by it, both ``(N, C, M)``.

        """
        layers = [step.layer for step in self.steps]
        out, saved = _forward(layers, self.x, self._arguments())
        _, gradients = _backward(layers, saved, grad_of_loss(out), needs_input_grad=False)
        named = zip(self._names(), gradients, strict=True)
        return {name: g for name, g in named if name is not None and g is not None}

    def _names(self) -> list[str | None]:
        """Names of weight and bias of each layer in turn."""
        return [name for step in self.steps for name in step[1:]]

    def _arguments(self) -> list[Tensor | None]:
        """Weight and bias of each layer in turn."""
        return [None if name is None else self.weights[name] for name in self._names()]


class _Chain(torch.autograd.Function):
    """The layers as one node of autograd."""

    @staticmethod
    def forward(ctx: Any, layers: Sequence[Layer], x: Tensor, *arguments: Any) -> Tensor:
        out, saved = _forward(layers, x, arguments, save=any(ctx.needs_input_grad))
        ctx.shape, ctx.layers, ctx.saved = x.shape, layers, saved
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if len(ctx.saved) < len(ctx.layers):
            raise RuntimeError("a chain of layers runs backward once: it frees what it saved")
        by_x, gradients = _backward(
            ctx.layers, ctx.saved, grad, needs_input_grad=ctx.needs_input_grad[1]
        )
        return None, None if by_x is None else by_x.view(ctx.shape), *gradients


def _forward(
    layers: Sequence[Layer], x: Tensor, arguments: Sequence[Any], *, save: bool = True
) -> tuple[Tensor, list[Saved]]:
    """Result of all layers, and what each of them saved.

    Args:
        layers: one after the other.
        x: input of the first, ``(N, C, M)`` or ``(C, M)``.
        arguments: weight and bias of each layer in turn.
        save: whether a gradient will be needed.

    """
    all_saved = []
    for i, layer in enumerate(layers):
        x, saved = layer.forward(x, arguments[2 * i], arguments[2 * i + 1])
        if save:
            all_saved.append(saved)
    return x, all_saved


def _backward(
    layers: Sequence[Layer], saved: list[Saved], grad: Tensor, *, needs_input_grad: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradient by the input of the first layer, if needed, and by weight and bias of each in turn.

    Args:
        layers: as those of :func:`_forward`.
        saved: of each layer; freed on the way, so that it is empty at the end.
        grad: gradient by the result of the last layer, ``(N, C, M)``.
        needs_input_grad: whether the gradient by the input of the first layer is needed.

    """
    gradients: list[Tensor | None] = []  # from the last to the first
    by_x: Tensor | None = grad
    for i in reversed(range(len(layers))):
        assert by_x is not None
        by_x, by_weight, by_bias = layers[i].backward(
            by_x, saved.pop(), needs_input_grad=needs_input_grad or i > 0
        )
        gradients += [by_bias, by_weight]
    return by_x, gradients[::-1]
