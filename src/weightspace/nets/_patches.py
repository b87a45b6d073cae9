"""Neighbourhoods of pixels, so that a convolution is a linear layer of them.

When this file may be deleted: see ``_chain``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def images_last(images: Tensor) -> Tensor:
    """Images ``(N, B, C, H, W)`` to ``(N, C, H W B)``; N may be missing."""
    return images.movedim(-4, -1).flatten(-3, -2).flatten(-2)


def strided(length: int, stride: int) -> int:
    """Neighbourhoods along one axis of ``length`` pixels.

    >>> strided(7, 2)
    4
    """
    return (length - 1) // stride + 1


def patched(length: int, size: int, stride: int, border: int) -> int:
    """Neighbourhoods of any size and border along one axis of ``length`` pixels.

    >>> patched(7, 3, 2, 0), patched(7, 2, 1, 1)
    (3, 8)
    """
    return (length + 2 * border - size) // stride + 1


def make_patches(
    x: Tensor, h: int, w: int, size: int, stride: int = 1, border: int | None = None
) -> Tensor:
    """Neighbourhoods with a border of zeros; a convolution is a linear layer of them.

    ``y[size i + j, p, q] = x[stride p + i - border, stride q + j - border]``, 0 outside.

    Args:
        x: images ``(N, C, H W B)``, or ``(C, H W B)`` for all networks.
        h: height of an image, in pixels.
        w: width of an image, in pixels.
        size: height and width of a neighbourhood.
        stride: from one to the next, in pixels.
        border: of zeros, in pixels; None for half the size, which is odd then.

    Returns:
        ``(N, size^2 C, H' W' B)`` or without N, in the order of a convolution's flattened weight.

    >>> import torch
    >>> make_patches(torch.arange(1.0, 5).reshape(1, 4), 2, 2, 3)[:, 0].reshape(3, 3)  # of the first pixel
    tensor([[0., 0., 0.],
            [0., 1., 2.],
            [0., 3., 4.]])

    """
    edge = size // 2 if border is None else border
    pixels = x.reshape(-1, h, w, x.shape[-1] // (h * w))  # (N C, H, W, B)
    padded = F.pad(pixels, (0, 0, edge, edge, edge, edge))
    by_image, by_row, by_column, by_b = padded.stride()
    shape = size, size, patched(h, size, stride, edge), patched(w, size, stride, edge)
    steps = by_image, by_row, by_column, by_row * stride, by_column * stride, by_b
    copied = padded.as_strided((len(pixels), *shape, pixels.shape[-1]), steps).reshape(
        len(pixels) * size**2, -1
    )
    return copied.view(*x.shape[:-2], -1, copied.shape[-1])


def add_patches(
    grad: Tensor, h: int, w: int, size: int, stride: int = 1, border: int | None = None
) -> Tensor:
    """Gradient by the images of :func:`make_patches`: at each pixel the sum over its neighbourhoods.

    Args:
        grad: gradient by the neighbourhoods ``(N, size^2 C, H' W' B)``, or without N.
        h: height of an image, in pixels.
        w: width of an image, in pixels.
        size: height and width of a neighbourhood.
        stride: from one to the next, in pixels.
        border: as that of :func:`make_patches`.

    Returns:
        ``(N, C, H W B)``, or without N.

    >>> import torch
    >>> add_patches(torch.ones(9, 4), 2, 2, 3)  # each of 2x2 pixels is in all four neighbourhoods
    tensor([[4., 4., 4., 4.]])

    """
    edge = size // 2 if border is None else border
    rows, columns = (_moves(length, size, stride, edge) for length in (h, w))
    high, wide = patched(h, size, stride, edge), patched(w, size, stride, edge)
    by_patch = grad.reshape(-1, size, size, high, wide, grad.shape[-1] // (high * wide))
    out = grad.new_zeros(len(by_patch), h, w, by_patch.shape[-1])
    for i, (to_row, from_row) in enumerate(rows):
        for j, (to_column, from_column) in enumerate(columns):
            out[:, to_row, to_column] += by_patch[:, i, j, from_row, from_column]
    return out.view(*grad.shape[:-2], grad.shape[-2] // size**2, -1)


def _moves(length: int, size: int, stride: int, border: int) -> list[tuple[slice, slice]]:
    """Along one axis: the pixels that are the i-th of a neighbourhood, and those neighbourhoods.

    >>> _moves(4, 3, 1, 1)[0]  # the left one is missing in the first
    (slice(0, 3, 1), slice(1, 4, None))

    """
    moves = []
    for offset in range(-border, size - border):
        first = max(0, -(offset // stride))  # the first neighbourhood with this pixel inside
        end = min(patched(length, size, stride, border), (length - 1 - offset) // stride + 1)
        count, start = max(end - first, 0), first * stride + offset
        pixels = slice(start, start + count * stride, stride) if count else slice(0)
        moves.append((pixels, slice(first, first + count)))
    return moves
