"""Layers of N networks at once, each with its gradient written out.

Shapes: N networks, I inputs and O outputs of a layer, C channels, M = H W B pixels of all B images.
``g`` is the gradient of the loss by a layer's result. When this file may be deleted: see ``_chain``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.nets._batch_norm import MOMENTUM, BatchNorm, running_affine
from weightspace.nets._chain import Gradients, Layer, Saved
from weightspace.nets._patches import add_patches, make_patches
from weightspace.weights.spec import EPSILON


@dataclass(frozen=True)
class _Affine:
    """A layer with a weight and, maybe, a bias.

    Args:
        weight: name of the weight.
        bias: name of the bias; None for a layer without.

    """

    weight: str
    bias: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Weight, and bias if there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def _of(self, weights: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias, in the type of the input."""
        bias = None if self.bias is None else weights[self.bias].to(x.dtype)
        return weights[self.weight].to(x.dtype), bias

    def _gradients(self, by_weight: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """By weight and, the sum of ``grad`` ``(N, O, M)`` over M, by bias."""
        by_bias = {} if self.bias is None else {self.bias: grad.sum(-1)}
        return {self.weight: by_weight} | by_bias


class Linear(_Affine):
    """Linear layer ``y = W x + b``.

    Input ``(N, I, M)``, or ``(I, M)`` for all; weight ``(N, O, I)``, bias ``(N, O)`` or none. Channels
    and pixels of the input become one axis where the weight has as many inputs, and so do all axes of
    a convolution's weight. Overwrites nothing.
    """

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, O, M)``."""
        weight, bias = self._of(weights, x)
        flat = weight.flatten(2)  # (N, O, I)
        x = x.reshape(*x.shape[:-2], flat.shape[2], -1)  # (N, I, M) or (I, M)
        if x.ndim == 3:
            return _product(flat, x, bias), (x, weight)
        wide = flat.flatten(0, 1)  # (N O, I)
        out = wide @ x if bias is None else torch.addmm(bias.reshape(-1, 1), wide, x)
        return out.view(*weight.shape[:2], -1), (x, weight)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: ``W^T g``; by W: ``g x^T``; by b: ``sum_M g``.

        Where all networks share x, the first of these is a sum over them.
        """
        x, weight = saved
        flat = weight.flatten(2)
        if x.ndim == 3:
            by_x = torch.bmm(flat.mT, grad) if needs_input_grad else None
            return by_x, self._gradients(torch.bmm(grad, x.mT).view_as(weight), grad)
        wide = grad.flatten(0, 1)  # (N O, M)
        by_x = flat.flatten(0, 1).mT @ wide if needs_input_grad else None
        return by_x, self._gradients((wide @ x.mT).view_as(weight), grad)


def _product(weight: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    """``W x + b``: ``(N, O, I)`` times ``(N, I, M)``, and ``(N, O)`` for all columns or None."""
    return torch.bmm(weight, x) if bias is None else torch.baddbmm(bias[..., None], weight, x)


class _Plain:
    """A layer without weights."""

    names: tuple[str, ...] = ()


class Relu(_Plain):
    """Rectifier ``y = max(x, 0)``. Overwrites its input with its result, which it saves."""

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """As ``x``."""
        return x.relu_(), (x,)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: ``g [y > 0]``."""
        return torch.ops.aten.threshold_backward(grad, saved[0], 0), {}


@dataclass(frozen=True)
class Function(_Plain):
    """Any function of ``(N, C, M)`` without weights; its gradient is autograd's. Overwrites nothing.

    Args:
        function: computed again for the gradient.

    """

    function: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """As the function says."""
        return self.function(x), (x,)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: autograd's."""
        x = saved[0].detach().requires_grad_()
        with torch.enable_grad():
            out = self.function(x)
        return torch.autograd.grad(out, x, grad.reshape(out.shape))[0], {}


@dataclass(frozen=True)
class ReluPool(_Plain):
    """Rectifier ``r = max(x, 0)`` and 2x2 average pooling ``y = mean(r)`` of images ``h x w``.

    An odd last row or column is left out. Overwrites its input with r, which it saves.

    Args:
        h: height of an image, in pixels.
        w: width of an image, in pixels.

    """

    h: int
    w: int

    def _quads(self, x: Tensor) -> Tensor:
        """The same memory as ``(N, C, H/2, 2, W/2, 2, B)``."""
        pixels = x.view(*x.shape[:2], self.h, self.w, -1)  # (N, C, H, W, B)
        even = pixels[:, :, : self.h // 2 * 2, : self.w // 2 * 2]
        quads: Tensor = even.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return quads

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, C, H W B)`` to ``(N, C, H/2 W/2 B)``."""
        top, bottom = self._quads(x.relu_()).unbind(3)  # (N, C, H/2, W/2, 2, B)
        left, right = (top + bottom).unbind(4)  # (N, C, H/2, W/2, B)
        return (left + right).mul_(1 / 4).flatten(2), (x,)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: ``g / 4 [r > 0]`` of its square, 0 in an odd last row or column."""
        rectified = saved[0]
        quads = self._quads(rectified)  # (N, C, H/2, 2, W/2, 2, B)
        n, c, h, _, w, _, b = quads.shape
        by_pixel = (grad.reshape(n, c, h, 1, w, 1, b) / 4).expand_as(quads)
        odd = (self.h | self.w) % 2
        by_x = torch.zeros_like(rectified) if odd else torch.empty_like(rectified)
        target = self._quads(by_x)  # the same memory
        torch.ops.aten.threshold_backward.grad_input(by_pixel, quads, 0, grad_input=target)
        return by_x, {}


@dataclass(frozen=True)
class MaxPool(_Plain):
    """3x3 max-pooling of stride 2 with a border, of images ``h x w``. Overwrites nothing.

    Images last are pixels with many channels to PyTorch, whose function is used.

    Args:
        h: height of an image, in pixels.
        w: width of an image, in pixels.

    """

    h: int
    w: int

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, C, H W B)`` to ``(N, C, H/2 W/2 B)``, rounded up."""
        pixels = self._pixels(x)  # (N C, B, H, W)
        out, index = torch.ops.aten.max_pool2d_with_indices(pixels, *self._window)
        return out.movedim(1, -1).reshape(*x.shape[:2], -1), (pixels, index)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: the sum of g where this pixel is the largest."""
        pixels, index = saved
        above = grad.reshape(len(pixels), *index.shape[2:], -1).movedim(-1, 1)
        by_pixel = torch.ops.aten.max_pool2d_with_indices_backward(
            above, pixels, *self._window, (1, 1), False, index
        )
        return by_pixel.movedim(1, -1).reshape(*grad.shape[:2], -1), {}

    _window = (3, 3), (2, 2), (1, 1)  # size, stride, border

    def _pixels(self, x: Tensor) -> Tensor:
        return x.view(-1, self.h, self.w, x.shape[2] // (self.h * self.w)).movedim(-1, 1)


@dataclass(frozen=True)
class SquarePool(_Plain):
    """Largest of each ``side x side`` pixels of images ``h x w``; what is left over is dropped. Overwrites nothing.

    Args:
        h: height of an image, in pixels.
        w: width of an image, in pixels.
        side: of a square, in pixels.

    """

    h: int
    w: int
    side: int

    def _parts(self, x: Tensor) -> list[Tensor]:
        """The pixels ``(N, C, H', W', B)`` at each place of their squares; the same memory."""
        pixels = x.view(*x.shape[:2], self.h, self.w, -1)
        k = self.side
        whole = pixels[:, :, : self.h // k * k, : self.w // k * k]
        return [whole[:, :, i::k, j::k] for i in range(k) for j in range(k)]

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, C, H W B)`` to ``(N, C, H' W' B)``."""
        x = x.contiguous()
        largest = reduce(torch.maximum, self._parts(x)).contiguous()
        return largest.flatten(2), (x, largest)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: g where this pixel is the first of the largest, which in a dark corner all are."""
        x, largest = saved
        left, by_x = grad.reshape(largest.shape), torch.zeros_like(x)
        for part, to in zip(self._parts(x), self._parts(by_x), strict=True):
            torch.mul(left, part == largest, out=to)
            left = left - to
        return by_x, {}


@dataclass(frozen=True)
class GlobalMean(_Plain):
    """Mean over the pixels of each image. Overwrites nothing.

    Args:
        pixels: of an image.

    """

    pixels: int

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, C, H W B)`` to ``(N, C, B)``."""
        return x.unflatten(2, (self.pixels, -1)).mean(2), ()

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: ``g / (H W)``."""
        return (grad / self.pixels).repeat(1, 1, self.pixels), {}


@dataclass(frozen=True, kw_only=True)
class PatchConv(_Affine):
    """Convolution of any size, stride, border and channels, as a :class:`Linear` of its patches.

    Patches are up to size^2 times the input. Overwrites nothing.

    Args:
        h: height of an image, in pixels.
        w: width of an image, in pixels.
        size: height and width of the kernel.
        stride: from patch to patch, in pixels.
        border: of zeros, in pixels; None for half of an odd size.
        recompute: save the input, and make the patches again for the gradient.

    """

    h: int
    w: int
    size: int
    stride: int = 1
    border: int | None = None
    recompute: bool = False

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, I, H W B)`` or ``(I, H W B)`` to ``(N, O, H' W' B)``."""
        patches = self._patches(x)
        out, (_, weight) = self._linear.forward(patches, weights)
        return out, (x if self.recompute else patches, weight)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """Those of the linear layer; a pixel's is the sum over its patches."""
        x, weight = saved
        patches = self._patches(x) if self.recompute else x
        by_patch, gradients = self._linear.backward(
            grad, (patches, weight), needs_input_grad=needs_input_grad
        )
        if by_patch is None:
            return None, gradients
        return add_patches(by_patch, *self._of_patches), gradients

    @property
    def _linear(self) -> Linear:
        return Linear(self.weight, self.bias)

    def _patches(self, x: Tensor) -> Tensor:
        return make_patches(x, *self._of_patches)

    @property
    def _of_patches(self) -> tuple[int, int, int, int, int | None]:
        return self.h, self.w, self.size, self.stride, self.border


@dataclass(frozen=True, kw_only=True)
class Conv3x3(_Affine):
    """3x3 convolution with a border of zeros, of images ``h x w`` with many channels.

    ``y = sum_i W_i S_i + b``: the three horizontal neighbours of a pixel are stacked to S, and S_i is
    S moved by i = -1, 0, 1 rows. A third of the copies that a stack of all nine would be. For images
    of few channels, where such products are too thin, :class:`PatchConv` is faster. Overwrites
    nothing.

    Args:
        h: height of an image, in pixels.
        w: width of an image, in pixels.
        recompute: save the input, and stack it again for the gradient.

    """

    h: int
    w: int
    recompute: bool = False

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, I, H W B)`` and weight ``(N, O, I, 3, 3)`` to ``(N, O, H W B)``."""
        weight, bias = self._of(weights, x)
        by_row = self._by_row(weight)
        stacked = self._stacked(x)
        top, middle, bottom = self._rows(stacked)  # (N, 3 I, H W B)
        out = _product(by_row[0], top, bias).baddbmm_(by_row[1], middle)
        return out.baddbmm_(by_row[2], bottom), (x if self.recompute else stacked, weight)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By W_i: ``g S_i^T``; by b: ``sum_M g``; by S: the sum of ``W_i^T g`` moved by -i rows.

        That by x is the middle third of the one by S, plus the outer thirds moved by a column.
        """
        x, weight = saved
        rows = self._rows(self._stacked(x) if self.recompute else x)
        by_weight = torch.stack([torch.bmm(grad, row.mT) for row in rows], 2)
        by_weight = by_weight.unflatten(3, (-1, 3)).transpose(2, 3)  # (N, O, I, 3, 3)
        gradients = self._gradients(by_weight, grad)
        if not needs_input_grad:
            return None, gradients
        line = grad.shape[2] // self.h  # W B
        # gradients by the pixels to which this one is below, on the same row, above: (N, O, H W B)
        below, same, above = self._rows(F.pad(grad, (line, line)))
        by_row = self._by_row(weight)
        by_stack = torch.bmm(by_row[0].mT, above).baddbmm_(by_row[1].mT, same)
        by_stack = by_stack.baddbmm_(by_row[2].mT, below)  # (N, 3 I, H W B)
        shape = len(grad), -1, 3, self.h, self.w, line // self.w
        left, by_x, right = by_stack.view(shape).unbind(2)  # (N, I, H, W, B)
        by_x[:, :, :, :-1] += left[:, :, :, 1:]
        by_x[:, :, :, 1:] += right[:, :, :, :-1]
        return by_x.flatten(2), gradients

    def _by_row(self, weight: Tensor) -> Tensor:
        """``(N, O, I, 3, 3)`` to ``(3, N, O, 3 I)``."""
        return weight.permute(3, 0, 1, 2, 4).flatten(3)

    def _stacked(self, x: Tensor) -> Tensor:
        """``(N, I, H W B)`` to ``(N, 3 I, (H + 2) W B)``: each pixel, its left and right neighbour."""
        pixels = x.reshape(*x.shape[:2], self.h, self.w, -1)  # (N, I, H, W, B)
        padded = F.pad(pixels, (0, 0, 1, 1, 1, 1))  # (N, I, H + 2, W + 2, B)
        n, c, h, w, b = padded.stride()
        sizes = (*pixels.shape[:2], 3, self.h + 2, self.w, pixels.shape[4])
        # copied, as two neighbours share memory before
        return padded.as_strided(sizes, (n, c, w, h, w, b)).reshape(len(x), 3 * x.shape[1], -1)

    def _rows(self, x: Tensor) -> list[Tensor]:
        """Parts of ``(N, C, (H + 2) W B)`` that the upper, same and lower neighbours are."""
        line = x.shape[2] // (self.h + 2)
        return [x[:, :, i * line : (i + self.h) * line] for i in range(3)]


@dataclass(frozen=True)
class Normalise:
    """Batch normalisation in training mode, with weight and bias ``(N, C)``.

    ``y = w u / s + b`` with ``u = x - mean(x)`` and ``s = sqrt(mean(u^2) + epsilon)``, means over M.
    With M last every pass is a vectorised one; torch's function takes 2 to 3 times as long.
    Overwrites its input with u, which it saves, and its running statistics.

    Source: Ioffe and Szegedy (2015), arXiv 1502.03167, section 3.

    Args:
        mean: running mean ``(N, C)``, updated in place.
        variance: running variance ``(N, C)``, updated in place.
        names: of weight and bias.

    """

    mean: Tensor
    variance: Tensor
    names: tuple[str, str]

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """As ``x``, ``(N, C, M)``."""
        weight, bias = (weights[name] for name in self.names)
        mean, count = x.mean(-1, dtype=weight.dtype), x.shape[-1]  # (N, C)
        centred = x.sub_(mean[..., None])
        variance = (centred * centred).sum(-1, dtype=weight.dtype) / count
        inverse = (variance + EPSILON).rsqrt()  # 1 / s
        shift, scale = bias.to(x.dtype), (weight * inverse).to(x.dtype)
        out = torch.addcmul(shift[..., None], centred, scale[..., None])
        self.mean.lerp_(mean, MOMENTUM)
        self.variance.lerp_(variance * (count / (count - 1)), MOMENTUM)
        return out, (centred, inverse, weight)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By w: ``G = sum_M g u / s``; by b: ``H = sum_M g``; by x: ``w / s (g - H / M - u G / (s M))``."""
        centred, inverse, weight = saved
        by_bias = grad.sum(-1, dtype=weight.dtype)  # (N, C)
        by_weight = (grad * centred).sum(-1, dtype=weight.dtype) * inverse
        scale, count = weight * inverse, grad.shape[-1]
        tilt, level = scale * inverse * by_weight / -count, scale * by_bias / -count
        scale, tilt, level = (x.to(grad.dtype) for x in (scale, tilt, level))
        by_x = torch.addcmul(level[..., None], grad, scale[..., None])  # (N, C, M)
        gradients = dict(zip(self.names, (by_weight, by_bias), strict=True))
        return by_x.addcmul_(centred, tilt[..., None]), gradients


@dataclass(frozen=True)
class NormaliseByReferences:
    """Batch normalisation by the statistics of the last images of a batch, with their gradient.

    As :class:`Normalise`, with the means over the R reference pixels alone: ``y = w u / s + b``.
    Overwrites its input with u, which it saves, and the running statistics with those measured.

    Args:
        mean: running mean ``(N, C)``, overwritten.
        variance: running variance ``(N, C)``, overwritten.
        names: of weight and bias.
        images: images of a batch.
        references: how many of them, the last ones, give the statistics.

    """

    mean: Tensor
    variance: Tensor
    names: tuple[str, str]
    images: int
    references: int

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """As ``x``, ``(N, C, M)``."""
        weight, bias = (weights[name] for name in self.names)
        self.mean.copy_(self._references(x).mean((-2, -1)))
        centred = x.sub_(self.mean[..., None])
        variance = self._references(centred).square().mean((-2, -1))  # (N, C)
        self.variance.copy_(variance)
        inverse = (variance + EPSILON).rsqrt()  # 1 / s
        out = torch.addcmul(bias[..., None], centred, (weight * inverse)[..., None])
        return out, (centred, inverse, weight)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By w: ``G = sum_M g u / s``; by b: ``H = sum_M g``; by x: ``w / s g``.

        By x of a reference pixel in addition ``- w / s (H + u G / s) / R``.
        """
        centred, inverse, weight = saved
        by_bias = grad.sum(-1)  # (N, C)
        by_weight = torch.linalg.vecdot(grad, centred) * inverse
        gradients = dict(zip(self.names, (by_weight, by_bias), strict=True))
        if not needs_input_grad:
            return None, gradients
        scale = weight * inverse
        by_x = grad * scale[..., None]
        of_references = self._references(by_x)  # the same memory
        scale = scale / -of_references[0, 0].numel()
        of_references += (scale * by_bias)[..., None, None]
        tilt = (scale * inverse * by_weight)[..., None, None]
        of_references.addcmul_(self._references(centred), tilt)
        return by_x, gradients

    def _references(self, x: Tensor) -> Tensor:
        """The same memory as ``(N, C, H W, R)``, of the reference images alone."""
        return x.view(*x.shape[:2], -1, self.images)[..., self.images - self.references :]


def has_kernels(like: Tensor) -> bool:
    """Whether networks with tensors as this one run on the kernels of ``_gpu``."""
    return like.is_cuda and find_spec("triton") is not None


def convolution(
    like: Tensor, h: int, w: int, *, size: int = 3, stride: int = 1, recompute: bool = False
) -> Callable[..., Layer]:
    """What makes a convolution with a border of zeros, of many channels, from its names.

    Args:
        like: a tensor of the networks.
        h: height of an image, in pixels.
        w: width of an image, in pixels.
        size: height and width of the kernel, odd.
        stride: from result to result, in pixels.
        recompute: save the input alone.

    """
    if has_kernels(like):
        from weightspace.nets._gpu import GpuConv

        rough = like.requires_grad and torch.is_grad_enabled()
        return partial(GpuConv, h=h, w=w, size=size, stride=stride, rough=rough)
    if size == 3 and stride == 1:
        return partial(Conv3x3, h=h, w=w, recompute=recompute)
    return partial(PatchConv, h=h, w=w, size=size, stride=stride, recompute=recompute)


def normalised(
    conv: Callable[[str, str | None], Layer],
    name: str,
    norm: str,
    weights: dict[str, Tensor],
    module: nn.Module,
    images: int,
    *,
    rectified: bool = False,
) -> list[Layer]:
    """A convolution without bias, the normalisation of its result and, if asked, the rectifier.

    Normalisation by running statistics, in evaluation mode, becomes part of the convolution.

    Args:
        conv: makes its layer from the names of weight and bias.
        name: of the convolution.
        norm: of the normalisation.
        weights: those of N networks, where the convolution gets its new weight and bias.
        module: the :class:`BatchNorm`; says by what to normalise.
        images: images of a batch.
        rectified: whether the rectifier follows.

    """
    rectifier: list[Layer] = [Relu()] if rectified else []
    weight, bias = f"{name}.weight", f"{name}.bias"
    running = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    affine = f"{norm}.weight", f"{norm}.bias"
    assert isinstance(module, BatchNorm)
    if module.training and module.references:
        return [
            conv(weight, None),
            NormaliseByReferences(*running, affine, images, module.references),
            *rectifier,
        ]
    if module.training and has_kernels(running[0]):
        from weightspace.nets._gpu import GpuNormalise

        return [conv(weight, None), GpuNormalise(*running, affine, rectified)]
    if module.training:
        return [conv(weight, None), Normalise(*running, affine), *rectifier]
    scale, weights[bias] = running_affine(*running, *(weights[name] for name in affine))
    weights[weight] = weights[weight] * scale[..., None, None, None]
    return [conv(weight, bias), *rectifier]
