"""Where and how to compute: device, precision, threads, allocator. The one place that decides.

Images, modules and latents live on the device. Networks lie in host memory or on disk and are moved
to it block by block where they are run; outputs, results and files come back. Plans, splits, indices and
noise are drawn on the CPU from named streams and moved, so they are equal on every device; sums
are not, bit by bit.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from weightspace.errors import problem
from weightspace.params import Params, RuntimeSettings

Part = TypeVar("Part")
THREADS = 2  # fixed, because sums in another order give other bytes


def prepare(threads: int = THREADS) -> None:
    """Fix how many threads there are and keep freed memory in the process.

    Training allocates and frees the same blocks of some MB in every step. By default glibc returns
    them to the system each time, and page faults then take up to half of the time.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option, value in (
                (-3, 1 << 30),
                (-1, 1 << 30),
                (-2, 1 << 26),
            ):  # mmap, trim, top pad
                libc.mallopt(option, value)


def device(settings: RuntimeSettings) -> torch.device:
    """Where to compute: the first GPU if it is allowed and there is one, else the CPU.

    Raises:
        WeightspaceError: a GPU is required and there is none.

    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise problem(
            "no GPU that this torch can use",
            where="params.yaml: runtime.device",
            got=f"cuda, and torch {torch.__version__} without it",
            do="set runtime.device to auto or cpu, or install torch for CUDA and its driver",
        )
    return torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")


def precision(name: str, device: torch.device) -> torch.autocast:
    """Context in which linear layers compute in "float32" or "bf16".

    bf16 is float32 on a CPU that oneDNN knows no bf16 products for: there torch multiplies entry by
    entry, and training takes eight times as long.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half(name, device))


def is_half(name: str, device: torch.device) -> bool:
    """Whether a precision, "float32" or "bf16", is bf16 on a device: see :func:`precision`."""
    if name != "bf16" or device.type != "cpu":
        return name == "bf16"
    mkldnn = torch.backends.mkldnn.is_available()
    return bool(mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def environment(params: Params) -> dict[str, str]:
    """What figures are computed on: device, lowest precision of the selected models, torch."""
    where = device(params.runtime)
    models = (
        params.autoencoders.of(params.autoencoder.model),
        params.shared_encoders.of(params.shared_encoder.model),
    )
    half = any(is_half(getattr(options, "precision", ""), where) for options in models)
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "precision": "bf16" if half else "float32",
        "torch": torch.__version__,
    }


def workers(settings: RuntimeSettings) -> int:
    """Processes to train shards with: as asked, or one per core this process may use."""
    if settings.workers != "auto":
        return int(settings.workers)
    cores = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return len(cores)


def side_by_side(work: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """Do independent parts of some work, as many at once as torch has threads, each on one.

    So that all cores are busy where the operations of a part are too small for several.

    Args:
        work: does one part; what it computes depends on no other.
        parts: all of them.

    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, parts))
    finally:
        torch.set_num_threads(threads)  # what new threads start with is one number for all
