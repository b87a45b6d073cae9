"""Batch normalisation, as several architectures use it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.weights.spec import EPSILON, Axis, TensorSpec

MOMENTUM = 0.1  # weight of a batch in the running statistics, PyTorch's default


class BatchNorm(nn.Module):
    """Batch normalisation of images, as torch.nn.BatchNorm2d but without its counter.

    ``num_batches_tracked`` changes no output while the momentum is fixed, and an integer has no
    place among weights that are averaged, projected and decoded. All other names and shapes are
    PyTorch's, whose strict loading adds the counter itself.

    Source: Ioffe and Szegedy (2015), arXiv 1502.03167, algorithms 1 and 2.

    Args:
        channels: number of channels C.

    >>> norm, images = BatchNorm(2), torch.arange(16.0).reshape(2, 2, 2, 2)
    >>> norm.train()(images).mean((0, 2, 3)).abs().max() < 1e-6
    tensor(True)
    >>> norm.running_mean  # 0.1 of the batch's
    tensor([0.5500, 0.9500])

    """

    running_mean: Tensor
    running_var: Tensor
    references: int = 0  # so many images at the end of a batch give its statistics; 0: all of them

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)``; in training mode by the batch, whose statistics are kept."""
        running = self.running_mean, self.running_var
        if self.training and self.references:
            variance, mean = torch.var_mean(x[-self.references :], (0, 2, 3), correction=0)
            self.running_mean.copy_(mean.detach())
            self.running_var.copy_(variance.detach())
            scale, shift = running_affine(mean, variance, self.weight, self.bias)
            return x * scale[:, None, None] + shift[:, None, None]
        if self.training:
            return F.batch_norm(x, *running, self.weight, self.bias, True, MOMENTUM, EPSILON)
        scale, shift = running_affine(*running, self.weight, self.bias)
        return x * scale[:, None, None] + shift[:, None, None]


def running_affine(
    mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Scale and shift of batch normalisation by running statistics.

    Unlike torch's function it has a gradient with respect to the statistics, which are decoded.

    Args:
        mean: running mean ``(..., C)``.
        variance: running variance ``(..., C)``.
        weight: learned scale ``(..., C)``.
        bias: learned shift ``(..., C)``.

    >>> scale, shift = running_affine(*(torch.tensor([x]) for x in (5.0, 4.0, 6.0, 1.0)))
    >>> round(float(scale), 4), round(float(shift), 4)  # 6 / 2, 1 - 5 * 3
    (3.0, -14.0)

    """
    scale = weight * (variance + EPSILON).rsqrt()
    return scale, bias - mean * scale


def batch_norm_tensors(name: str, channels: int, axis: Axis) -> list[TensorSpec]:
    """Specification of the four tensors of a :class:`BatchNorm`.

    Args:
        name: of the module.
        channels: number of channels.
        axis: their permutation group.

    >>> [(t.name, t.role) for t in batch_norm_tensors("bn", 8, Axis("conv"))][2:]
    [('bn.running_mean', 'buffer'), ('bn.running_var', 'variance')]

    """
    shape, axes = (channels,), (axis,)
    return [
        TensorSpec(f"{name}.weight", shape, "parameter", axes),
        TensorSpec(f"{name}.bias", shape, "parameter", axes),
        TensorSpec(f"{name}.running_mean", shape, "buffer", axes),
        TensorSpec(f"{name}.running_var", shape, "variance", axes),
    ]
