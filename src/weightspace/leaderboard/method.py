"""A method as others hand it over: functions on plain tensors, called carefully and timed.

What a function gives is checked before it is scored: its type, its shape, and that it is finite. What it
is given is a copy: it can change nothing that is scored. Networks are a table name -> tensor
``(N, *shape)``, or one matrix ``(N, numbers)`` with all tensors side by side in the order of the zoo.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.errors import WeightspaceError, problem
from weightspace.rng import torch_stream
from weightspace.sampling.sampler import Condition
from weightspace.weights.spec import Population, Spec, Weights, block_size, blocks

BLOCK = 100  # networks that a function gets at once

Encode = Callable[[Weights], Any]
Decode = Callable[[Tensor], Any]
Sample = Callable[[Tensor, Tensor, int, torch.Generator], Any]


@dataclass
class Method:
    """Functions of a method, what they gave so far, and how long they took.

    Attributes:
        spec: the architecture.
        encode: networks ``{name: (N, *shape)}`` -> latents or other columns ``(N, L)``.
        decode: latents ``(N, L)`` -> N networks.
        sample: train images of the classes of a task ``(c, n, C, H, W)``, requested results ``(K,)``,
            draws of each, a random stream -> ``K * draws`` networks, those of a request side by side.
        networks: networks read or made so far.
        seconds: spent in the functions.

    """

    spec: Spec
    encode: Encode | None = None
    decode: Decode | None = None
    sample: Sample | None = None
    networks: int = 0
    seconds: float = 0.0
    _widths: set[int] = field(default_factory=set)
    _digest: Any = field(default_factory=hashlib.sha256)

    @property
    def given(self) -> str:
        """SHA-256 of the networks or columns that the functions gave."""
        digest: str = self._digest.hexdigest()
        return digest

    def columns(self, networks: Population) -> Tensor:
        """Latents, or other columns, ``(N, L)`` of N networks that are taken block by block."""
        size = block_size(self.spec, BLOCK)
        parts = [self._encoded(block) for block in blocks(networks, size)]
        widths = {x.shape[1] for x in parts} | self._widths
        self._widths |= widths
        if len(widths) > 1:
            got = " and ".join(map(str, sorted(widths)))
            raise problem("columns change their number", where="encode", got=got)
        return torch.cat(parts)

    def rebuilt(self, weights: Weights) -> Weights:
        """Networks ``(N, *shape)``, encoded and decoded."""
        z, size = self._encoded(weights, counts=False), len(weights[self.spec.names[0]])
        return self._networks("decode", size, self.decode, z.clone())

    def draws(self, condition: Condition, draws: int, seed: int, *names: str) -> Weights:
        """Networks ``(N * draws, *shape)`` of N requests, those of a request side by side.

        Args:
            condition: N requests; the function is called once for all requests of a task.
            draws: networks of each.
            seed: root seed.
            *names: of the random stream, which is another one for each task.

        """
        tasks, first, of_request = np.unique(
            condition.classes.numpy(), axis=0, return_index=True, return_inverse=True
        )
        room = {t.name: torch.empty(len(condition), draws, *t.shape) for t in self.spec.tensors}
        for task in first.argsort():  # in the order in which they come
            rows = torch.from_numpy(np.flatnonzero(of_request.ravel() == task))
            made = self._networks(
                "sample",
                len(rows) * draws,
                self.sample,
                condition.class_images[torch.from_numpy(tasks[task])],
                condition.target[rows].clone(),
                draws,
                torch_stream(seed, "leaderboard", *names, *map(int, tasks[task])),
            )
            for name, w in made.items():
                room[name][rows] = w.unflatten(0, (len(rows), draws))
        return {name: w.flatten(0, 1) for name, w in room.items()}

    def _encoded(self, weights: Weights, *, counts: bool = True) -> Tensor:
        copy = {name: w.clone() for name, w in weights.items()}
        size = len(copy[self.spec.names[0]])
        z = tensor("encode", self._call("encode", self.encode, copy))
        if z.ndim != 2 or len(z) != size or not z.shape[1]:
            raise problem(
                "another shape", where="encode", got=tuple(z.shape), expected=f"({size}, columns)"
            )
        if counts:
            self.networks += size
            self._digest.update(z.numpy().tobytes())
        return z

    def _networks(self, name: str, size: int, function: Any, *arguments: Any) -> Weights:
        """Networks ``(size, *shape)`` that a function gave, checked."""
        given = self._call(name, function, *arguments)
        if isinstance(given, Mapping):
            weights = {str(k): tensor(f"{name}: '{k}'", w) for k, w in given.items()}
        else:
            flat = tensor(name, given)
            if flat.shape != (size, self.spec.numel):
                expected = f"({size}, {self.spec.numel}), or a table of tensors"
                raise problem("another shape", where=name, got=tuple(flat.shape), expected=expected)
            weights = self.spec.unflatten(flat)
        made = self.spec.check(weights, name)
        if made != size:
            raise problem("another count of networks", where=name, got=made, expected=size)
        self.networks += size
        for key in self.spec.names:
            self._digest.update(weights[key].contiguous().numpy().tobytes())
        return {key: weights[key] for key in self.spec.names}

    def _call(self, name: str, function: Any, *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        except WeightspaceError:
            raise
        except (Exception, SystemExit) as error:  # code of others fails in every way
            text = f"{type(error).__name__}: {error}"
            raise problem(f"the method's function failed ({text})", where=name) from error
        finally:
            self.seconds += time.perf_counter() - start


def tensor(name: str, value: Any) -> Tensor:
    """What a function gave as a finite float32 tensor in host memory, without gradients.

    Args:
        name: of the function, for messages.
        value: tensor or array of numbers.

    Raises:
        WeightspaceError: neither of them, no numbers, NaN or infinity.

    >>> tensor("encode", np.ones((2, 1)))
    tensor([[1.],
            [1.]])
    >>> tensor("encode", [[1.0, float("nan")]])
    Traceback (most recent call last):
        ...
    weightspace.errors.WeightspaceError: encode: gave another type; found list, expected ...

    """
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        value = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    if not isinstance(value, Tensor) or value.is_complex() or value.dtype == torch.bool:
        kind = getattr(value, "dtype", type(value).__name__)
        expected = "a tensor or an array of real numbers"
        raise problem("gave another type", where=name, got=kind, expected=expected)
    if value.layout != torch.strided or value.is_meta:
        raise problem("gave another type", where=name, got=value.layout, expected="a dense tensor")
    out = value.detach().to("cpu", torch.float32).clone()
    if not out.isfinite().all():
        raise problem(
            "gave NaN or infinity", where=name, do="leave such networks out, or mend them"
        )
    return out
