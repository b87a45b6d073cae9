"""Layers of N networks at once, each with its gradient written out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from weightspace.nets._batch_norm import MOMENTUM
from weightspace.nets._chain import Gradients, Kept
from weightspace.weights.spec import EPSILON


class Linear:
    """Linear layer: input ``(N, I, M)``, or ``(I, M)`` for all; weight ``(N, O, I)``, bias ``(N, O)``.

    Channels and pixels of the input become one axis where the weight has as many inputs, and so do
    all axes of a convolution's weight; there may be no bias.
    """

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Kept]:
        """``(N, O, M)``."""
        flat = weight.flatten(2)
        x = x.reshape(*x.shape[:-2], flat.shape[2], -1)
        if x.ndim == 3:
            return _product(flat, x, bias), (x, weight, bias)
        wide = flat.flatten(0, 1)
        out = wide @ x if bias is None else torch.addmm(bias.reshape(-1, 1), wide, x)
        return out.view(*weight.shape[:2], -1), (x, weight, bias)

    def backward(
        self, grad: Tensor, kept: Kept, *, wanted: bool
    ) -> tuple[Tensor | None, Gradients]:
        """See :class:`Layer`."""
        x, weight, bias = kept
        by_bias = None if bias is None else grad.sum(-1)
        flat = weight.flatten(2)
        if x.ndim == 3:
            by_x = torch.bmm(flat.mT, grad) if wanted else None
            return by_x, (torch.bmm(grad, x.mT).view_as(weight), by_bias)
        wide = grad.flatten(0, 1)
        by_x = flat.flatten(0, 1).mT @ wide if wanted else None
        return by_x, ((wide @ x.mT).view_as(weight), by_bias)


def _product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """``(N, O, I)`` times ``(N, I, M)``, and ``(N, O)`` for all columns."""
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[..., None], weight, x)


class Relu:
    """Rectifier, in place."""

    def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
        """As ``x``."""
        return x.relu_(), (x,)

    def backward(
        self, grad: Tensor, kept: Kept, *, wanted: bool
    ) -> tuple[Tensor | None, Gradients]:
        """See :class:`Layer`."""
        return torch.ops.aten.threshold_backward(grad, kept[0], 0), ()


@dataclass(frozen=True)
class ReluPool:
    """Rectifier, in place, and 2x2 average pooling of images ``h x w``.

    An odd last row or column is left out.
    """

    h: int
    w: int

    def _quads(self, x: Tensor) -> Tensor:
        """The same memory as ``(N, C, H/2, 2, W/2, 2, B)``."""
        pixels = x.view(*x.shape[:2], self.h, self.w, -1)
        even = pixels[:, :, : self.h // 2 * 2, : self.w // 2 * 2]
        quads: Tensor = even.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return quads

    def forward(self, x: Tensor) -> tuple[Tensor, Kept]:
        """``(N, C, H W B)`` to a quarter of it."""
        top, bottom = self._quads(x.relu_()).unbind(3)
        left, right = (top + bottom).unbind(4)
        return (left + right).mul_(1 / 4).flatten(2), (x,)

    def backward(
        self, grad: Tensor, kept: Kept, *, wanted: bool
    ) -> tuple[Tensor | None, Gradients]:
        """See :class:`Layer`."""
        x = kept[0]
        quads = self._quads(x)
        count, c, h, _, w, _, b = quads.shape
        each = (grad.reshape(count, c, h, 1, w, 1, b) / 4).expand_as(quads)
        out = torch.zeros_like(x) if (self.h | self.w) % 2 else torch.empty_like(x)
        torch.ops.aten.threshold_backward.grad_input(each, quads, 0, grad_input=self._quads(out))
        return out, ()


@dataclass(frozen=True)
class Conv3x3:
    """3x3 convolution with a border of zeros, of images ``h x w`` with many channels.

    Three horizontal neighbours are stacked, three rows are three products of parts of that stack: a
    third of the copies that a stack of all nine would be. For images of few channels, where such
    products are too thin, ``_patches.patches`` and :class:`Linear` are faster.
    """

    h: int
    w: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Kept]:
        """``(N, I, H W B)`` and weight ``(N, O, I, 3, 3)`` to ``(N, O, H W B)``."""
        pixels = x.reshape(*x.shape[:2], self.h, self.w, -1)
        padded = F.pad(pixels, (0, 0, 1, 1, 1, 1))
        n, c, h, w, b = padded.stride()
        sizes = (*pixels.shape[:2], 3, self.h + 2, self.w, pixels.shape[4])
        stacked = padded.as_strided(sizes, (n, c, w, h, w, b)).reshape(len(x), 3 * x.shape[1], -1)
        by_row = weight.permute(3, 0, 1, 2, 4).flatten(3)  # (3, N, O, 3 I)
        top, middle, bottom = self._rows(stacked)
        out = _product(by_row[0], top, bias).baddbmm_(by_row[1], middle)
        return out.baddbmm_(by_row[2], bottom), (stacked, by_row, bias)

    def backward(
        self, grad: Tensor, kept: Kept, *, wanted: bool
    ) -> tuple[Tensor | None, Gradients]:
        """See :class:`Layer`."""
        stacked, by_row, bias = kept
        by_bias = None if bias is None else grad.sum(-1)
        by_weight = torch.stack([torch.bmm(grad, rows.mT) for rows in self._rows(stacked)], 2)
        by_weight = by_weight.unflatten(3, (-1, 3)).transpose(2, 3)
        if not wanted:
            return None, (by_weight, by_bias)
        line = grad.shape[2] // self.h
        below, same, above = self._rows(F.pad(grad, (line, line)))
        each = torch.bmm(by_row[0].mT, above).baddbmm_(by_row[1].mT, same)
        each = each.baddbmm_(by_row[2].mT, below).view(
            len(grad), -1, 3, self.h, self.w, line // self.w
        )
        left, out, right = each.unbind(2)
        out[:, :, :, :-1] += left[:, :, :, 1:]
        out[:, :, :, 1:] += right[:, :, :, :-1]
        return out, (by_weight, by_bias)

    def _rows(self, x: Tensor) -> list[Tensor]:
        """Parts of ``(N, C, (H + 2) W B)`` that the upper, same and lower neighbours are."""
        line = x.shape[2] // (self.h + 2)
        return [x[:, :, i * line : (i + self.h) * line] for i in range(3)]


@dataclass(frozen=True)
class Normalise:
    """Batch normalisation in training mode, with weight and bias ``(N, C)``.

    With M last every pass is a vectorised one; torch's own function takes 2 to 3 times as long here.
    The gradient is that of Ioffe and Szegedy (2015), arXiv 1502.03167, section 3, per channel
    ``a g + b (x - mean) + d``.

    Args:
        mean: running mean ``(N, C)``, updated in place.
        variance: running variance ``(N, C)``, updated in place.

    """

    mean: Tensor
    variance: Tensor

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Kept]:
        """As ``x``, ``(N, C, M)``."""
        mean, count = x.mean(-1), x.shape[-1]
        centred = x.sub_(mean[..., None])
        variance = torch.linalg.vecdot(centred, centred) / count
        inverse = (variance + EPSILON).rsqrt()
        out = torch.addcmul(bias[..., None], centred, (weight * inverse)[..., None])
        self.mean.lerp_(mean, MOMENTUM)
        self.variance.lerp_(variance * (count / (count - 1)), MOMENTUM)
        return out, (centred, inverse, weight)

    def backward(
        self, grad: Tensor, kept: Kept, *, wanted: bool
    ) -> tuple[Tensor | None, Gradients]:
        """See :class:`Layer`."""
        centred, inverse, weight = kept
        by_bias = grad.sum(-1)
        by_weight = torch.linalg.vecdot(grad, centred) * inverse
        scale, count = weight * inverse, grad.shape[-1]
        tilt, level = scale * inverse * by_weight / -count, scale * by_bias / -count
        by_x = torch.addcmul(level[..., None], grad, scale[..., None])
        return by_x.addcmul_(centred, tilt[..., None]), (by_weight, by_bias)
