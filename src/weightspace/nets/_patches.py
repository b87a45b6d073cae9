"""3x3 neighbourhoods of images, so that a convolution is a linear layer of them.

When this file may be deleted: see ``_chain``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def patches(x: Tensor) -> Tensor:
    """3x3 neighbourhoods with a border of zeros; a convolution is a linear layer of them.

    Args:
        x: ``(N, C, H, W, B)``, or ``(C, H, W, B)`` for all networks.

    Returns:
        ``(N, 9 C, H W B)`` or ``(9 C, H W B)``, in the order of a convolution's flattened weight.

    >>> patches(torch.arange(1.0, 5).reshape(1, 2, 2, 1))[:, 0].reshape(3, 3)  # of the first pixel
    tensor([[0., 0., 0.],
            [0., 1., 2.],
            [0., 3., 4.]])

    """
    stacked: Tensor = _Patches.apply(x.reshape(-1, *x.shape[-3:]))  # (N C, 9, H W B)
    return stacked.reshape(*x.shape[:-4], -1, stacked.shape[-1])


class _Patches(torch.autograd.Function):
    """Neighbourhoods ``(L, 9, H W B)`` of ``(L, H, W, B)``.

    ``y[3 i + j, h, w] = x[h + i - 1, w + j - 1]``, 0 outside.
    The gradient by x is ``sum_ij g[3 i + j, h - i + 1, w - j + 1]``; autograd's is 3 times slower.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        count, h, w, b = ctx.shape = x.shape
        padded = F.pad(x.contiguous(), (0, 0, 1, 1, 1, 1))  # (L, H + 2, W + 2, B)
        by_l, by_h, by_w, by_b = padded.stride()
        steps = (by_l, by_h, by_w, by_h, by_w, by_b)
        return padded.as_strided((count, 3, 3, h, w, b), steps).reshape(count, 9, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        count, h, w, b = ctx.shape
        grad = grad.view(count, 3, 3, h, w, b)  # (L, 3, 3, H, W, B)
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
