"""What the benchmarks share: the machine, the spread of a figure over rounds, the JSON at the end."""

import json
import os
import platform
import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

CORES = len(os.sched_getaffinity(0))  # that this process may use


def machine(*more):
    """First figures of a benchmark: where it ran, with what."""
    return {
        "machine": ", ".join((platform.machine(), f"{CORES} cores", *more)),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def spread(values):
    """Median, least and largest of the rounds; whole numbers where the median is above 100."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    digits = None if figures["median"] > 100 else 3
    return {name: round(v, digits) for name, v in figures.items()}


def training_flops(module, images):
    """Floating point operations of a step on a batch of images, forward and backward, as PyTorch counts."""
    module = module.requires_grad_().train()
    with FlopCounterMode(display=False) as counter:
        module(images).square().mean().backward()
    return counter.get_total_flops()


def write(figures, path=None):
    """Print one JSON object, and write it where asked."""
    text = json.dumps(figures, indent=2)
    print(text)
    if path:
        path.write_text(text + "\n")
