"""Tensors in fewer bits: integers and a step for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

FEW = 4096  # entries; smaller tensors, and those of one axis, stay as they are
STEP = ":step"  # ends the names of steps
# Entropy of a normal variable of variance 1 in steps of size s: log2(GAUSS / s) bits
GAUSS = math.sqrt(2 * math.pi * math.e)


def packed(tensors: Mapping[str, Tensor], bits: float) -> dict[str, Tensor]:
    """Large float32 tensors as integers, a step for each row of the first axis.

    The step is a fraction of the root mean square of the row, the same for all: for a given size that
    is the least error. An integer of up to 8 bits takes a byte, which deflate packs to about as many
    bits as asked for.

    Args:
        tensors: name -> tensor.
        bits: of a number, from ``FEWEST`` to ``MOST``.

    Returns:
        name -> tensor, and with ``STEP`` the steps of its rows where it was changed.

    >>> x = torch.linspace(-1, 1, 8192).reshape(2, 4096)
    >>> stored = packed({"x": x, "few": x[:, :3]}, bits=8)
    >>> stored["x"].dtype, stored["few"].dtype, sorted(stored)
    (torch.int8, torch.float32, ['few', 'x', 'x:step'])
    >>> float((unpacked(stored)["x"] - x).abs().max()) < 0.01
    True

    """
    kind = torch.int16 if bits > 8 else torch.int8
    fraction, out = GAUSS / 2**bits, dict(tensors)
    for name, x in tensors.items():
        if x.dtype != torch.float32 or x.ndim < 2 or x.numel() < FEW:
            continue
        rows = x.flatten(1)
        least = rows.abs().amax(1) / torch.iinfo(kind).max
        step = (fraction * rows.square().mean(1).sqrt()).maximum(least)
        whole = (rows / step.clamp_min(torch.finfo(step.dtype).tiny)[:, None]).round()
        out[name], out[name + STEP] = whole.to(kind).reshape(x.shape), step
    return out


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`packed` was given, as near as its bits allow."""
    out = {}
    for name, x in tensors.items():
        if not name.endswith(STEP):
            step = tensors.get(name + STEP)
            out[name] = x if step is None else (x.flatten(1) * step[:, None]).reshape(x.shape)
    return out
