"""Named random streams: every draw belongs to a name, so adding one never shifts another.

A stream is derived from ``(seed, *names)`` by SHA-256. Run 17 of a zoo draws from
``stream(seed, "zoo", 17, "init")`` whether the zoo has 100 runs or 100,000, in whatever order
and process it is trained. Nothing touches a global generator.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch


def stream_seed(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed from a root seed and a path of names.

    >>> stream_seed(0, "zoo", 17), stream_seed(0, "zoo", 18)
    (6774235448484584260, 3838346863456759320)
    """
    key = json.dumps([int(seed), *names], separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """NumPy generator of a named stream.

    >>> int(stream(0, "zoo", 17).integers(1000)) == int(stream(0, "zoo", 17).integers(1000))
    True
    """
    return np.random.default_rng(stream_seed(seed, *names))


def normal(size: tuple[int, ...], rng: torch.Generator, device: torch.device) -> torch.Tensor:
    """Standard normal numbers, drawn on the CPU and moved: the same ones on every device.

    Args:
        size: shape of the result.
        rng: generator of a named stream.
        device: where they are needed.

    >>> a, b = (normal((2,), torch_stream(0, "fit"), torch.device("cpu")) for _ in range(2))
    >>> torch.equal(a, b)
    True

    """
    return torch.randn(size, generator=rng).to(device)


def torch_stream(seed: int, *names: str | int) -> torch.Generator:
    """Torch CPU generator of a named stream.

    >>> same = [torch.rand(1, generator=torch_stream(0, "fit")) for _ in range(2)]
    >>> bool(same[0] == same[1])
    True
    """
    return torch.Generator().manual_seed(stream_seed(seed, *names))
