"""Layers that several architectures share, and layers of N networks at once.

Activations of many networks are ``(N, C, H, W, B)``, the images last: a convolution is then one
batched matrix product whose result needs no reordering, copies for it move runs of at least B
numbers, and PyTorch's weight layout is used as it is. Images that all networks share have no N, and
the first layer is one wide product. benchmarks/zoo_training.py measures it against grouped
convolution, which is what vmap makes of a convolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.spec import EPSILON, Axis, TensorSpec

MOMENTUM = 0.1  # share of a batch in the running statistics, PyTorch's default


class BatchNorm(nn.Module):
    """Batch normalisation of images, as torch.nn.BatchNorm2d but without its counter.

    ``num_batches_tracked`` changes no output while the momentum is fixed, and an integer has no
    place among weights that are averaged, projected and decoded. All other names and shapes are
    PyTorch's, whose strict loading adds the counter itself.

    Source: Ioffe and Szegedy (2015), arXiv 1502.03167, algorithms 1 and 2.

    Args:
        channels: number of channels C.

    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``; in training mode by the batch, whose statistics are kept."""
        running = self.running_mean, self.running_var
        if self.training:
            return F.batch_norm(x, *running, self.weight, self.bias, True, MOMENTUM, EPSILON)
        scale, shift = running_affine(*running, self.weight, self.bias)
        return x * scale[:, None, None] + shift[:, None, None]


def running_affine(
    mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Scale and shift of batch normalisation by running statistics.

    Unlike torch's function it has a gradient with respect to the statistics, which are decoded.
    """
    scale = weight * (variance + EPSILON).rsqrt()
    return scale, bias - mean * scale


def batch_norm_tensors(name: str, channels: int, axis: Axis) -> list[TensorSpec]:
    """Specification of the four tensors of a :class:`BatchNorm` called ``name``."""
    shape, axes = (channels,), (axis,)
    return [
        TensorSpec(f"{name}.weight", shape, "parameter", axes),
        TensorSpec(f"{name}.bias", shape, "parameter", axes),
        TensorSpec(f"{name}.running_mean", shape, "buffer", axes),
        TensorSpec(f"{name}.running_var", shape, "variance", axes),
    ]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer of N networks.

    Args:
        x: inputs ``(N, I, M)``, or ``(I, M)`` for all networks.
        weight: ``(N, O, I)``.
        bias: ``(N, O)``, or none.

    Returns:
        ``(N, O, M)``.

    """
    if bias is None:
        return torch.matmul(weight, x)
    if x.ndim == 2:
        wide = torch.addmm(bias.reshape(-1, 1), weight.flatten(0, 1), x)
        return wide.view(*weight.shape[:2], -1)
    return torch.baddbmm(bias[..., None], weight, x)


def patches(x: Tensor) -> Tensor:
    """3x3 neighbourhoods with a border of zeros; a convolution is a linear layer of them.

    Args:
        x: ``(N, C, H, W, B)``, or ``(C, H, W, B)`` for all networks.

    Returns:
        ``(N, 9 C, H W B)`` or ``(9 C, H W B)``, in the order of a convolution's flattened weight.

    """
    each: Tensor = _Patches.apply(x.reshape(-1, *x.shape[-3:]))  # (N C, 9, H W B)
    return each.reshape(*x.shape[:-4], -1, each.shape[-1])


def avg_pool(x: Tensor) -> Tensor:
    """2x2 average pooling of ``(N, C, H, W, B)``; an odd last row or column is left out."""
    h, w = x.shape[-3] // 2, x.shape[-2] // 2
    top, bottom = x[..., : 2 * h, : 2 * w, :].unflatten(-3, (h, 2)).unbind(-3)
    left, right = (top + bottom).unflatten(-2, (w, 2)).unbind(-2)
    out: Tensor = (left + right) / 4
    return out


def batch_norm(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Batch normalisation of N networks in training mode.

    Args:
        x: ``(N, C, M)``.
        mean: running mean ``(N, C)``, updated in place.
        variance: running variance ``(N, C)``, updated in place.
        weight: ``(N, C)``.
        bias: ``(N, C)``.

    Returns:
        As ``x``.

    """
    out, average, spread = _BatchNorm.apply(x, weight, bias)
    unbiased = spread * (x.shape[-1] / (x.shape[-1] - 1))
    mean.lerp_(average, MOMENTUM)
    variance.lerp_(unbiased, MOMENTUM)
    normalised: Tensor = out
    return normalised


class _BatchNorm(torch.autograd.Function):
    """Normalised ``(N, C, M)`` with mean and variance ``(N, C)``.

    With M last every pass is a vectorised one; torch's own function takes 2 to 3 times as long here
    (benchmarks/layers.py). The gradient is that of Ioffe and Szegedy, section 3, per channel
    ``a g + b (x - mean) + d``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(-1)
        centred = x - mean[..., None]
        variance = torch.linalg.vecdot(centred, centred) / x.shape[-1]
        inverse = (variance + EPSILON).rsqrt()
        ctx.save_for_backward(centred, inverse, weight)
        ctx.mark_non_differentiable(mean, variance)
        out = (centred * (weight * inverse)[..., None]).add_(bias[..., None])
        return out, mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        centred, inverse, weight = ctx.saved_tensors
        by_bias = grad.sum(-1)
        by_weight = torch.linalg.vecdot(grad, centred) * inverse
        scale = weight * inverse
        tilt, level = scale * inverse * by_weight, scale * by_bias  # both times M
        by_x = grad * scale[..., None]
        by_x.sub_(centred * (tilt / grad.shape[-1])[..., None]).sub_(
            (level / grad.shape[-1])[..., None]
        )
        return by_x, by_weight, by_bias


class _Patches(torch.autograd.Function):
    """Neighbourhoods ``(L, 9, H W B)`` of ``(L, H, W, B)``; by autograd the gradient is 3x slower."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        count, h, w, b = ctx.shape = x.shape
        padded = F.pad(x.contiguous(), (0, 0, 1, 1, 1, 1))
        by_l, by_h, by_w, by_b = padded.stride()
        steps = (by_l, by_h, by_w, by_h, by_w, by_b)
        return padded.as_strided((count, 3, 3, h, w, b), steps).reshape(count, 9, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        count, h, w, b = ctx.shape
        grad = grad.view(count, 3, 3, h, w, b)
        out = grad[:, 1, 1].clone()
        for i, (to_h, from_h) in enumerate(_shifts(h)):
            for j, (to_w, from_w) in enumerate(_shifts(w)):
                if (i, j) != (1, 1):
                    out[:, to_h, to_w] += grad[:, i, j, from_h, from_w]
        return out


def _shifts(size: int) -> tuple[tuple[slice, slice], ...]:
    """Where the gradient of each of three neighbours goes along one axis, and where it comes from."""
    every, rest, most = slice(None), slice(1, None), slice(size - 1)
    return (most, rest), (every, every), (rest, most)
