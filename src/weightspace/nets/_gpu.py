"""Layers of N networks on a GPU: those of ``_layers`` whose products and passes are kernels of ``_kernels``.

When this file may be deleted: see ``_chain``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from weightspace.nets import _kernels
from weightspace.nets._batch_norm import MOMENTUM
from weightspace.nets._chain import Gradients, Saved


@dataclass(frozen=True)
class GpuConv:
    """Convolution of an odd size with a border of zeros. Overwrites nothing.

    Args:
        weight: name of the weight ``(N, O, I, size, size)``.
        bias: name of the bias ``(N, O)``, None for none.
        h: height of an image, in pixels.
        w: width of an image, in pixels.
        size: height and width of the kernel.
        stride: from result to result, in pixels.
        rough: products of float32 in TF32, for fits and steps of latents; networks are measured without.

    """

    weight: str
    bias: str | None = None
    _: KW_ONLY
    h: int
    w: int
    size: int = 3
    stride: int = 1
    rough: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Weight, and bias if there is one."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    @property
    def _sizes(self) -> _kernels.Sizes:
        return _kernels.Sizes((self.h, self.w), self.size, self.stride, self.rough)

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """``(N, I, H W B)`` to ``(N, O, H' W' B)``."""
        x, weight = x.contiguous(), weights[self.weight]
        bias = None if self.bias is None else weights[self.bias].float().contiguous()
        by_tap = weight.to(x.dtype).flatten(3).permute(0, 3, 1, 2).contiguous()
        return _kernels.convolve(x, by_tap, bias, self._sizes), (x, weight)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """By x: the transposed convolution of g; by W: g times the neighbours; by b: ``sum_M g``."""
        x, weight = saved
        grad = grad.contiguous()
        by_weight = (
            _kernels.correlate(x, grad, self._sizes).permute(0, 2, 3, 1).reshape(weight.shape)
        )
        gradients = {self.weight: by_weight.to(weight.dtype)}
        if self.bias is not None:
            gradients[self.bias] = grad.sum(-1, dtype=weight.dtype)
        if not needs_input_grad:
            return None, gradients
        by_tap = weight.to(x.dtype).flatten(3).permute(0, 3, 2, 1).contiguous()
        return _kernels.convolve(grad, by_tap, None, self._sizes, transposed=True), gradients


@dataclass(frozen=True)
class GpuNormalise:
    """Batch normalisation in training mode, then the rectifier if asked. Overwrites the running statistics.

    As :class:`weightspace.nets._layers.Normalise`; saves its input.

    Args:
        mean: running mean ``(N, C)``, updated in place.
        variance: running variance ``(N, C)``, updated in place.
        names: of weight and bias.
        rectified: whether the rectifier follows.

    """

    mean: Tensor
    variance: Tensor
    names: tuple[str, str]
    rectified: bool = False

    def forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Saved]:
        """As ``x``, ``(N, C, M)``."""
        weight, bias = (weights[name].contiguous() for name in self.names)
        x, count = x.contiguous(), x.shape[-1]
        out, statistics = _kernels.normalise(x, weight, bias, rectified=self.rectified)
        mean, _, variance = statistics
        self.mean.lerp_(mean, MOMENTUM)
        self.variance.lerp_(variance * (count / (count - 1)), MOMENTUM)
        return out, (x, weight, bias, statistics)

    def backward(self, grad: Tensor, saved: Saved, *, needs_input_grad: bool) -> Gradients:
        """Those of the normalisation, after the rectifier's mask."""
        x, *others = saved
        by_x, *of_names = _kernels.normalise_backward(
            x, grad.contiguous(), *others, rectified=self.rectified
        )
        return by_x, dict(zip(self.names, of_names, strict=True))
