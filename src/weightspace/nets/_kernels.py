"""Convolution and batch normalisation of N networks on a GPU, as Triton kernels.

Batched products need patches, nine times the activations, written to memory and read again; at the
widths that fit many networks onto one card that is most of a step. These kernels read neighbours
where they lie. Layouts are those of ``_chain``: ``(N, C, M)``, M = H W B with the images last. Sums are
in float32 and always in the same order, products in bf16, or for activations of float32 three of TF32 each,
which have the precision of float32; rough ones are one of TF32, at 1e-3.

Imported only where there is a GPU, by ``_gpu``. Elsewhere Triton, which is not among the dependencies, runs them
on the CPU: ``TRITON_INTERPRET=1 python benchmarks/gpu.py --kernels``, in float32; it is wrong for products in bf16.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from weightspace.nets._patches import strided
from weightspace.weights.spec import EPSILON

PROGRAMS = 1024  # enough of them to fill a card


class Block(NamedTuple):
    """Pixels that a program works on at once, its warps, and how many loads are under way."""

    pixels: int
    warps: int
    stages: int


# Of each kernel by channels of a block: among the fastest of `benchmarks/gpu_blocks.py`
CONVOLVE = {16: Block(128, 2, 2), 32: Block(256, 4, 3), 64: Block(128, 4, 3)}
CORRELATE = {16: Block(128, 2, 4), 32: Block(128, 2, 3), 64: Block(64, 4, 3)}
# Arguments for whose values no kernel of its own is compiled. Of the others, Triton must know that they are
# multiples of 16: otherwise it loads numbers one by one.
PLAIN = ["size", "stride", "width", "high", "wide", "parts", "biases", "length", "taps_out"]


@triton.jit
def _source(
    m, tap, b_size, width, high, wide, size, stride, TRANSPOSED: tl.constexpr, V: tl.constexpr
):
    """Index of the neighbour ``tap`` of the pixels ``m``, and whether it lies in its image ``high x wide``.

    Pixels m are those of images of ``width`` columns; V of them in a row are of one pixel, of V images.
    Transposed: the pixels that m is a neighbour of.
    """
    pixel = m // b_size
    row, column = pixel // width, pixel % width
    if TRANSPOSED:
        row = row + size // 2 - tap // size
        column = column + size // 2 - tap % size
        inside = (row >= 0) & (column >= 0) & (row % stride == 0) & (column % stride == 0)
        row, column = row // stride, column // stride
    else:
        row = row * stride + tap // size - size // 2
        column = column * stride + tap % size - size // 2
        inside = (row >= 0) & (column >= 0)
    index = (row * wide + column) * b_size + m % b_size
    inside = inside & (row < high) & (column < wide)
    index = tl.max_contiguous(tl.multiple_of(index, [V]), [V])
    return index, tl.max_constancy(inside, [V])


@triton.jit(do_not_specialize=PLAIN)
def _convolve(
    x, weight, bias, out, inputs, outputs, m_in, m_out, b_size,
    width, high, wide, size, stride, parts, biases,
    TRANSPOSED: tl.constexpr, C: tl.constexpr, M: tl.constexpr, V: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Sum over taps and inputs of ``weight (N, taps, outputs, inputs)`` times the neighbour of each pixel."""
    n = tl.program_id(2).to(tl.int64)
    m = tl.program_id(0) * M + tl.arange(0, M)
    o = tl.program_id(1) * C + tl.arange(0, C)
    x += n * inputs * m_in
    weight += n * size * size * outputs * inputs
    total = tl.zeros((C, M), tl.float32)
    for part in range(size * size * parts):
        tap = part // parts
        i = part % parts * C + tl.arange(0, C)
        index, inside = _source(m, tap, b_size, width, high, wide, size, stride, TRANSPOSED, V)
        inside = inside & (m < m_out)
        w = tl.load(
            weight + (tap * outputs + o)[:, None] * inputs + i[None, :],
            mask=(o < outputs)[:, None] & (i < inputs)[None, :], other=0.0,
        )  # fmt: skip
        neighbour = tl.load(
            x + i.to(tl.int64)[:, None] * m_in + index[None, :],
            mask=(i < inputs)[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(w, neighbour, total, input_precision=KIND)
    total += tl.load(bias + n * outputs + o, mask=o < biases, other=0.0).to(tl.float32)[:, None]
    place = (n * outputs + o)[:, None] * m_out + m[None, :]
    tl.store(
        out + place, total.to(out.dtype.element_ty),
        mask=(o < outputs)[:, None] & (m < m_out)[None, :],
    )  # fmt: skip


@triton.jit(do_not_specialize=PLAIN)
def _correlate(
    x, grad, out, inputs, outputs, m_in, m_out, b_size,
    width, high, wide, size, stride, parts, length, taps_out,
    C: tl.constexpr, M: tl.constexpr, V: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Gradient by each tap: sum over ``length`` pixels of the gradient times the neighbour."""
    n = tl.program_id(2).to(tl.int64)
    tap, split = tl.program_id(1) % (size * size), tl.program_id(1) // (size * size)
    o = tl.program_id(0) // parts * C + tl.arange(0, C)
    i = tl.program_id(0) % parts * C + tl.arange(0, C)
    x += n * inputs * m_in
    grad += n * outputs * m_out
    total = tl.zeros((C, C), tl.float32)
    for start in range(0, length, M):
        m = tl.multiple_of(split * length, M) + start + tl.arange(0, M)
        index, inside = _source(m, tap, b_size, width, high, wide, size, stride, False, V)
        g = tl.load(
            grad + o.to(tl.int64)[:, None] * m_out + m[None, :],
            mask=(o < outputs)[:, None] & (m < m_out)[None, :], other=0.0,
        )  # fmt: skip
        neighbour = tl.load(
            x + i.to(tl.int64)[:, None] * m_in + index[None, :],
            mask=(i < inputs)[:, None] & (inside & (m < m_out))[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(g, tl.trans(neighbour), total, input_precision=KIND)
    out += split.to(tl.int64) * taps_out + (n * size * size + tap) * outputs * inputs
    tl.store(
        out + o[:, None] * inputs + i[None, :], total,
        mask=(o < outputs)[:, None] & (i < inputs)[None, :],
    )  # fmt: skip


@triton.jit
def _normalise(
    x,
    weight,
    bias,
    out,
    mean,
    inverse,
    variance,
    m_size,
    EPS: tl.constexpr,
    RELU: tl.constexpr,
    M: tl.constexpr,
):
    """One channel of one network: mean, variance, result."""
    channel = tl.program_id(0).to(tl.int64)
    x += channel * m_size
    total = tl.zeros((M,), tl.float32)
    for start in range(0, m_size, M):
        m = start + tl.arange(0, M)
        total += tl.load(x + m, mask=m < m_size, other=0.0).to(tl.float32)
    middle = tl.sum(total) / m_size
    total = tl.zeros((M,), tl.float32)
    for start in range(0, m_size, M):
        m = start + tl.arange(0, M)
        centred = tl.load(x + m, mask=m < m_size, other=0.0).to(tl.float32) - middle
        total += tl.where(m < m_size, centred * centred, 0.0)
    spread = tl.sum(total) / m_size
    by = tl.rsqrt(spread + EPS)
    tl.store(mean + channel, middle)
    tl.store(variance + channel, spread)
    tl.store(inverse + channel, by)
    scale = tl.load(weight + channel) * by
    shift = tl.load(bias + channel) - middle * scale
    for start in range(0, m_size, M):
        m = start + tl.arange(0, M)
        y = tl.load(x + m, mask=m < m_size, other=0.0).to(tl.float32) * scale + shift
        if RELU:
            y = tl.maximum(y, 0.0)
        tl.store(out + channel * m_size + m, y.to(out.dtype.element_ty), mask=m < m_size)


@triton.jit
def _normalise_backward(
    x,
    grad,
    weight,
    bias,
    mean,
    inverse,
    by_x,
    by_weight,
    by_bias,
    m_size,
    RELU: tl.constexpr,
    M: tl.constexpr,
):
    """One channel of one network: gradients by weight, bias and input."""
    channel = tl.program_id(0).to(tl.int64)
    x += channel * m_size
    grad += channel * m_size
    middle, by = tl.load(mean + channel), tl.load(inverse + channel)
    scale = tl.load(weight + channel) * by
    shift = tl.load(bias + channel) - middle * scale
    level = tl.zeros((M,), tl.float32)
    tilt = tl.zeros((M,), tl.float32)
    for start in range(0, m_size, M):
        m = start + tl.arange(0, M)
        v = tl.load(x + m, mask=m < m_size, other=0.0).to(tl.float32)
        g = tl.load(grad + m, mask=m < m_size, other=0.0).to(tl.float32)
        if RELU:
            g = tl.where(v * scale + shift > 0.0, g, 0.0)
        level += g
        tilt += g * (v - middle) * by
    of_bias, of_weight = tl.sum(level), tl.sum(tilt)
    tl.store(by_bias + channel, of_bias)
    tl.store(by_weight + channel, of_weight)
    of_bias, of_weight = of_bias / m_size, of_weight / m_size
    for start in range(0, m_size, M):
        m = start + tl.arange(0, M)
        v = tl.load(x + m, mask=m < m_size, other=0.0).to(tl.float32)
        g = tl.load(grad + m, mask=m < m_size, other=0.0).to(tl.float32)
        if RELU:
            g = tl.where(v * scale + shift > 0.0, g, 0.0)
        g = scale * (g - of_bias - (v - middle) * by * of_weight)
        tl.store(by_x + channel * m_size + m, g.to(by_x.dtype.element_ty), mask=m < m_size)


@dataclass(frozen=True)
class Sizes:
    """Height and width of images and results in pixels, of the kernel, its stride; whether products are rough."""

    image: tuple[int, int]
    size: int
    stride: int
    rough: bool = False

    @property
    def result(self) -> tuple[int, int]:
        """Height and width of a result."""
        return strided(self.image[0], self.stride), strided(self.image[1], self.stride)


def _channels(inputs: int, outputs: int) -> int:
    """Channels of a block: a power of two from 16, which tensor cores need, to 64."""
    return min(max(16, triton.next_power_of_2(min(inputs, outputs))), 64)


def _launch(block: Block, like: Tensor, *, rough: bool) -> dict[str, Any]:
    """Warps and loads under way; numbers of float32 leave room for fewer."""
    stages = block.stages if like.dtype == torch.bfloat16 else min(block.stages, 2)
    kind = "tf32" if rough else "tf32x3"
    return {"M": block.pixels, "KIND": kind, "num_warps": block.warps, "num_stages": stages}


def _together(images: int) -> int:
    """Numbers side by side that are loaded at once, of images of one pixel."""
    return math.gcd(images, 16)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, sizes: Sizes, *, transposed: bool = False
) -> Tensor:
    """Convolution of N networks, or its transpose.

    Args:
        x: ``(N, I, H W B)``; transposed ``(N, O, H' W' B)``; contiguous.
        weight: ``(N, taps, O, I)``; transposed ``(N, taps, I, O)``; contiguous, of the type of ``x``.
        bias: ``(N, O)`` or None.
        sizes: of images and kernel.
        transposed: from the result's gradient to the input's.

    Returns:
        ``(N, O, H' W' B)``; transposed ``(N, I, H W B)``.

    """
    n, _, outputs, inputs = weight.shape
    before, after = (sizes.result, sizes.image) if transposed else (sizes.image, sizes.result)
    b = x.shape[2] // (before[0] * before[1])
    m, c = after[0] * after[1] * b, _channels(inputs, outputs)
    out = x.new_empty(n, outputs, m)
    block = CONVOLVE[c]
    grid = triton.cdiv(m, block.pixels), triton.cdiv(outputs, c), n
    _convolve[grid](
        x, weight, weight if bias is None else bias, out, inputs, outputs, x.shape[2], m, b,
        after[1], *before, sizes.size, sizes.stride, triton.cdiv(inputs, c), 0 if bias is None else outputs,
        TRANSPOSED=transposed, C=c, V=_together(b), **_launch(block, x, rough=sizes.rough),
    )  # fmt: skip
    return out


def correlate(x: Tensor, grad: Tensor, sizes: Sizes) -> Tensor:
    """Gradient by the weight, ``(N, taps, O, I)`` in float32.

    Args:
        x: input ``(N, I, H W B)``, contiguous.
        grad: gradient by the result ``(N, O, H' W' B)``, contiguous, of the type of ``x``.
        sizes: of images and kernel.

    """
    (n, inputs, m_in), (outputs, m) = x.shape, grad.shape[1:]
    taps, c = sizes.size**2, _channels(inputs, outputs)
    block = CORRELATE[c]
    parts, b = triton.cdiv(inputs, c), m // (sizes.result[0] * sizes.result[1])
    blocks = triton.cdiv(outputs, c) * parts
    splits = min(max(1, PROGRAMS // (blocks * taps * n)), max(1, m // (8 * block.pixels)))
    length = triton.cdiv(triton.cdiv(m, splits), block.pixels) * block.pixels
    splits = triton.cdiv(m, length)
    out = torch.empty(splits, n, taps, outputs, inputs, device=x.device)
    _correlate[blocks, taps * splits, n](
        x, grad, out, inputs, outputs, m_in, m, b, sizes.result[1], *sizes.image,
        sizes.size, sizes.stride, parts, length, n * taps * outputs * inputs,
        C=c, V=_together(b), **_launch(block, x, rough=sizes.rough),
    )  # fmt: skip
    return out[0] if splits == 1 else out.sum(0)


def normalise(x: Tensor, weight: Tensor, bias: Tensor, *, rectified: bool) -> tuple[Tensor, Tensor]:
    """Batch normalisation of N networks and, if asked, the rectifier.

    Args:
        x: ``(N, C, M)``, contiguous.
        weight: ``(N, C)``, in float32.
        bias: ``(N, C)``, in float32.
        rectified: whether the rectifier follows.

    Returns:
        As ``x``; mean, 1 / s and variance ``(3, N, C)``.

    """
    out, statistics = torch.empty_like(x), weight.new_empty(3, *weight.shape)
    _normalise[weight.numel(),](
        x, weight, bias, out, *statistics, x.shape[-1],
        EPS=EPSILON, RELU=rectified, M=2048, num_warps=8,
    )  # fmt: skip
    return out, statistics


def normalise_backward(
    x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, statistics: Tensor, *, rectified: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of :func:`normalise` by ``x``, ``weight`` and ``bias``.

    Args:
        x: as there.
        grad: by the result, contiguous.
        weight: as there.
        bias: as there.
        statistics: its second result.
        rectified: as there.

    """
    by_x, by_weight, by_bias = (
        torch.empty_like(x),
        torch.empty_like(weight),
        torch.empty_like(weight),
    )
    _normalise_backward[weight.numel(),](
        x, grad, weight, bias, statistics[0], statistics[1], by_x, by_weight, by_bias,
        x.shape[-1], RELU=rectified, M=2048, num_warps=8,
    )  # fmt: skip
    return by_x, by_weight, by_bias
