"""Blocks of the GPU kernels: microseconds of each kernel on the layers of ResNet-18, with other blocks.

    PYTHONPATH=src python benchmarks/gpu_blocks.py --out benchmarks/gpu_blocks.csv      # on a machine with a GPU

The choices in ``nets/_kernels.py`` are among those with the least sums. Kernels are compiled by several processes first.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

try:
    import triton.testing

    from weightspace.nets import _kernels
    from weightspace.nets._kernels import Block, Sizes
except ImportError:
    sys.exit(
        "error: no Triton; run this where PyTorch for CUDA is installed, on a machine with a GPU"
    )

PIXELS, IMAGES = 28, 64
WARPS = {64: (2, 4), 128: (2, 4, 8), 256: (4, 8), 512: (8,)}  # of blocks by their pixels
STAGES = 2, 3, 4
KINDS = "convolve", "transposed", "correlate"


class Layer(NamedTuple):
    """A convolution: channels, height of its images in pixels, stride, how often it is there."""

    inputs: int
    outputs: int
    size: int
    stride: int
    times: int


COLUMNS = ["kind", *Layer._fields, *Block._fields, "us", "tflops"]


def layers(width):
    """The 3x3 convolutions after the stem."""
    out, size = [Layer(width, width, PIXELS, 1, 4)], PIXELS
    for i in (1, 2, 3):
        before, after = width * 2 ** (i - 1), width * 2**i
        out.append(Layer(before, after, size, 2, 1))
        size = -(-size // 2)
        out.append(Layer(after, after, size, 1, 3))
    return out


def work(kind, layer, networks, block):
    """A call of one kernel on random numbers, with a block."""
    inputs, outputs, size, *_ = layer
    sizes = Sizes((size, size), 3, layer.stride)
    m_in, m = size**2 * IMAGES, sizes.result[0] ** 2 * IMAGES
    draw = partial(torch.randn, device="cuda", dtype=torch.bfloat16)
    x, grad = draw(networks, inputs, m_in), draw(networks, outputs, m)
    channels = _kernels._channels(inputs, outputs)
    table = _kernels.CORRELATE if kind == "correlate" else _kernels.CONVOLVE

    def call():
        table[channels] = block
        if kind == "correlate":
            return _kernels.correlate(x, grad, sizes)
        if kind == "convolve":
            return _kernels.convolve(x, weight, None, sizes)
        return _kernels.convolve(grad, turned, None, sizes, transposed=True)

    weight = draw(networks, 9, outputs, inputs) / (3 * inputs**0.5)
    turned = weight.transpose(2, 3).contiguous()
    return call


def candidates(width):
    """Every kind, layer and block."""
    blocks = [Block(p, w, s) for p, warps in WARPS.items() for w in warps for s in STAGES]
    return [(kind, layer, b) for kind in KINDS for layer in layers(width) for b in blocks]


def compile_some(jobs):
    """Compile what some candidates need, into Triton's cache. One that does not fit the card is left out."""
    for kind, layer, block in jobs:
        try:
            work(kind, layer, 1, block)()
        except Exception as error:  # out of shared memory or registers
            print(kind, layer, block, str(error).splitlines()[0], file=sys.stderr)


def main():
    """Print the sums, write all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    jobs = candidates(options.width)
    # layers of as many channels share a kernel
    todo = list({(k, _kernels._channels(*of[:2]), b): (k, of, b) for k, of, b in jobs}.values())
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        parts = [todo[i :: options.processes] for i in range(options.processes)]
        list(pool.map(compile_some, parts))
    rows = []
    for kind, layer, block in jobs:
        try:
            call = work(kind, layer, options.networks, block)
            us = 1e3 * triton.testing.do_bench(call, warmup=2, rep=8, return_mode="median")
        except Exception:  # it was left out
            continue
        side = -(-layer.size // layer.stride)
        flop = 2 * 9 * layer.inputs * layer.outputs * side**2 * IMAGES * options.networks
        rows.append([kind, *layer, *block, round(us, 1), round(flop / us / 1e6, 1)])
    figures = pd.DataFrame(rows, columns=COLUMNS)
    if options.out:
        figures.to_csv(options.out, index=False)
    print(sums(figures).to_string())


def sums(figures):
    """Microseconds of all layers that share a kernel, by kernel and block, the best five of each."""
    narrow = figures[["inputs", "outputs"]].min(axis=1).clip(16, 64).rename("channels")
    us = figures["us"] * figures["times"]
    total = us.groupby([figures["kind"], narrow, *(figures[name] for name in Block._fields)]).sum()
    return total.groupby(level=[0, 1]).nsmallest(5).droplevel([0, 1])


if __name__ == "__main__":
    main()
